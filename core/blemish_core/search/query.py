# SPDX-License-Identifier: Apache-2.0
"""Queries of similarity searches, and their hits."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from blemish_core.platform.errors import InvalidRequest
from blemish_core.search.conditions import ANY_ITEM, Condition
from blemish_core.search.item import Item

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Similar:
    """An item that a search found."""

    item: Item
    similarity: float
    """Cosine similarity, -1 to 1."""
    group: str = ""
    """Value by which the hit was grouped."""


@dataclass(frozen=True)
class Query:
    """A similarity query: a ``vector``, an ``item`` or items to be ``like``, and how hits are chosen.

    With ``like`` or ``unlike``, the vector compared is the mean of the positive examples, moved away from
    the mean of the negative ones by as much (Qdrant's average-vector recommendation).
    """

    vector: Vector | None = None
    """Embedding of shape (dimensions,), by the index's model version."""
    item: UUID | None = None
    """Stored item to search by. It is never among the hits, nor are the examples."""
    like: Sequence[UUID] = ()
    """Positive examples."""
    unlike: Sequence[UUID] = ()
    """Negative examples."""
    where: Condition = ANY_ITEM
    """Condition that hits fit."""
    exact: bool = False
    """Comparison with every vector in full precision."""
    diversity: float | None = None
    """0 for the most similar hits, 1 for the most diverse (MMR, Carbonell and Goldstein 1998)."""
    group_by: str | None = None
    """Keyword of the payload by which hits are grouped; the group with the best hit comes first."""
    group_size: int = 3
    """Maximum number of hits in a group."""

    def validate(self) -> None:
        """Reject a query that searches for nothing or combines options that exclude each other.

        Raises:
            InvalidRequest: if the query is incomplete or contradictory.
        """
        has_examples = bool(self.like or self.unlike)
        has_query = self.vector is not None or self.item is not None
        if has_examples and self.diversity is not None:
            raise InvalidRequest(
                "diversity cannot be combined with like and unlike; remove one of them", field="diversity"
            )
        if not has_query and not has_examples:
            raise InvalidRequest(
                "the request contains no query; set image, item, vector, labelled or like", field="query"
            )
        if not has_query and not self.like:
            raise InvalidRequest(
                "unlike alone does not describe what to find; add like, or a query", field="unlike"
            )
