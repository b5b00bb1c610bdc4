# SPDX-License-Identifier: Apache-2.0
"""How points are scored: by a vector, by examples, for variety, or by the order of a field.

The examples that are points themselves are looked up here and left out of the hits, as a real
Qdrant does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.translation import ids
from blemish_local.qdrant.translation import reads as queries
from blemish_local.qdrant.translation.ids import Id
from blemish_local.qdrant.translation.vectors import VectorSpace

_MOST_CANDIDATES = 16_384
"""A real Qdrant's limit for MMR, which compares each candidate with each."""

Query = qe.Query | qe.Mmr | qe.OrderBy


class Examples:
    """The vectors called ``name`` that a query compares with, given or those of ``points``."""

    def __init__(self, name: str, space: VectorSpace, vector_of: Callable[[Id, str], Any]) -> None:
        self.name = name
        self.points: set[Id] = set()
        self._space = space
        self._vector_of = vector_of

    def read(self, given: pb.VectorInput) -> Any:
        """Return one vector.

        Raises:
            Missing: if it is that of a point that is not there, or has none.
            BadRequest: if it is no vector of the collection.
        """
        if given.WhichOneof("variant") == "id":
            point = ids.from_proto(given.id)
            self.points.add(point)
            return self._vector_of(point, self.name)
        return self._space.of_query(self.name, given)

    def read_all(self, given: Sequence[pb.VectorInput]) -> list[Any]:
        return [self.read(each) for each in given]

    def average(self, positives: Sequence[Any], negatives: Sequence[Any]) -> Any:
        """Return the vector that lies where a recommendation by AVERAGE_VECTOR looks."""
        if self._space.is_multi(self.name):
            opposite = [-np.asarray(row) for rows in negatives for row in rows]
            return [*(row for rows in positives for row in rows), *opposite]
        towards = np.mean(positives, axis=0)
        if negatives:
            towards = towards + towards - np.mean(negatives, axis=0)
        return self._space.checked(self.name, towards)

    def left_out_of(self, where: qe.Filter | None) -> qe.Filter | None:
        """Return ``where`` without the points that are examples."""
        if not self.points:
            return where
        return qe.Filter(
            must=None if where is None else [where], must_not=[qe.HasIdCondition({*self.points})]
        )


def read(request: pb.QueryPoints, examples: Examples) -> Query | None:
    """Return the engine's query; None where the points are only listed.

    Raises:
        Refusal: for a query that cannot be, or is not served.
    """
    if not request.HasField("query"):
        return None
    asked, name = request.query, examples.name or None
    match asked.WhichOneof("variant"):
        case "nearest":
            return qe.Query.Nearest(examples.read(asked.nearest), name)
        case "nearest_with_mmr":
            return _diverse(asked.nearest_with_mmr, queries.limit(request), examples)
        case "recommend":
            return _recommend(asked.recommend, examples)
        case "order_by":
            return queries.order(asked.order_by)
        case None:
            raise BadRequest("the query is empty: give a vector or a point's id, or leave it out")
        case kind:
            raise Unsupported(f"{kind} query")


def _diverse(asked: pb.NearestInputWithMmr, limit: int, examples: Examples) -> qe.Mmr:
    mmr = asked.mmr
    diversity = mmr.diversity if mmr.HasField("diversity") else 0.5
    candidates = mmr.candidates_limit if mmr.HasField("candidates_limit") else limit
    # The engine takes any number, and answers with nonsense.
    if not 0 <= diversity <= 1:
        raise BadRequest(f"the diversity of MMR is between 0 and 1, not {diversity:g}")
    if candidates > _MOST_CANDIDATES:
        raise BadRequest(f"MMR has at most {_MOST_CANDIDATES} candidates, not {candidates}")
    return qe.Mmr(examples.read(asked.nearest), 1 - diversity, candidates, examples.name or None)


def _recommend(asked: pb.RecommendInput, examples: Examples) -> qe.Query:
    name = examples.name or None
    positives, negatives = examples.read_all(asked.positive), examples.read_all(asked.negative)
    if asked.strategy == pb.RecommendStrategy.AverageVector:
        if not positives:
            raise BadRequest("a recommendation by the average vector needs at least one positive example")
        return qe.Query.Nearest(examples.average(positives, negatives), name)
    if not positives and not negatives:
        raise BadRequest("a recommendation needs at least one example, positive or negative")
    query = qe.RecommendQuery(positives, negatives)
    match asked.strategy:
        case pb.RecommendStrategy.BestScore:
            return qe.Query.RecommendBestScore(query, name)
        case pb.RecommendStrategy.SumScores:
            return qe.Query.RecommendSumScores(query, name)
    raise BadRequest(f"{asked.strategy} is no strategy to recommend by")
