# SPDX-License-Identifier: Apache-2.0
"""What is searched for, and what is found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from qdrant_client import grpc as qg
from qdrant_client import models as qm

from blemish_core.platform.errors import InvalidRequest
from blemish_core.search.item import Item

Vector = NDArray[np.float32]

# Of a hundred points around the query, the most unlike one another are taken.
_MMR_CANDIDATES = 10


@dataclass(frozen=True)
class Similar:
    item: Item
    similarity: float
    """Cosine, -1 to 1."""
    group: str = ""
    """The value that it was grouped by."""


@dataclass(frozen=True)
class Filter:
    """An item must fit each list that is not empty, by being one of its values."""

    datasets: Sequence[str] = ()
    categories: Sequence[str] = ()
    classes: Sequence[str] = ()
    condition: qm.Filter | None = None
    """And this."""

    def wanted(self) -> Mapping[str, Sequence[str]]:
        """The fields that lists restrict, and to what."""
        lists = {"dataset": self.datasets, "category": self.categories, "class_name": self.classes}
        return {field: values for field, values in lists.items() if values}

    def qdrant(self) -> qm.Filter | None:
        must: list[qm.Condition] = [any_of(field, values) for field, values in self.wanted().items()]
        if self.condition is not None:
            must.append(self.condition)
        return qm.Filter(must=must) if must else None


NO_FILTER = Filter()


@dataclass(frozen=True)
class Query:
    """Likeness to what; one of ``vector`` and ``item``, or items to be ``like``, or both.

    With items to be like or unlike, the vector compared is the mean of all that is to be like, moved away
    from the mean of what is to be unlike by as much (Qdrant's average-vector recommendation).
    """

    vector: Vector | None = None
    """(dimensions,), as the index's model embeds."""
    item: UUID | None = None
    """Not among its own hits; nor are those it is to be like or unlike."""
    like: Sequence[UUID] = ()
    unlike: Sequence[UUID] = ()
    where: Filter = NO_FILTER
    exact: bool = False
    """Compare with every vector in full precision."""
    diversity: float | None = None
    """0 takes the most similar, 1 those most unlike one another (MMR, Carbonell and Goldstein 1998)."""
    group_by: str | None = None
    """A keyword of the payload: hits come in groups of equal value, the group with the best one first."""
    group_size: int = 3
    """Hits of each group, at most."""

    def qdrant(self, limit: int) -> qg.Query:
        """Return it as Qdrant takes it.

        Raises:
            InvalidRequest: if it asks for nothing, or for what does not go together.
        """
        asked = self._asked()
        if self.like or self.unlike:
            if self.diversity is not None:
                raise InvalidRequest(
                    "diversity does not go together with like and unlike; leave one out", field="diversity"
                )
            positive = [*([asked] if asked is not None else []), *map(_point, self.like)]
            if not positive:
                raise InvalidRequest(
                    "unlike alone says nothing of what to find; add like, or a query", field="unlike"
                )
            return qg.Query(
                recommend=qg.RecommendInput(
                    positive=positive,
                    negative=map(_point, self.unlike),
                    strategy=qg.RecommendStrategy.AverageVector,
                )
            )
        if asked is None:
            raise InvalidRequest(
                "there is no query: set image, item, vector, labelled or like", field="query"
            )
        if self.diversity is None:
            return qg.Query(nearest=asked)
        candidates = max(_MMR_CANDIDATES * 10, _MMR_CANDIDATES * limit)
        mmr = qg.Mmr(diversity=self.diversity, candidates_limit=candidates)
        return qg.Query(nearest_with_mmr=qg.NearestInputWithMmr(nearest=asked, mmr=mmr))

    def _asked(self) -> qg.VectorInput | None:
        if self.item is not None:
            return _point(self.item)
        if self.vector is None:
            return None
        return qg.VectorInput(dense=qg.DenseVector(data=self.vector.tolist()))


def _point(id: UUID) -> qg.VectorInput:
    return qg.VectorInput(id=qg.PointId(uuid=str(id)))


def either(*conditions: qm.Condition) -> qm.Filter:
    """Fits what fits one of them."""
    return qm.Filter(should=list(conditions))


def any_of(field: str, values: Sequence[str]) -> qm.FieldCondition:
    return qm.FieldCondition(key=field, match=qm.MatchAny(any=list(values)))
