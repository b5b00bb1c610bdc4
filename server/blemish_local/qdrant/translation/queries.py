# SPDX-License-Identifier: Apache-2.0
"""Queries: by a vector, by examples, or for diverse hits.

Examples that are points are looked up here and excluded from the hits, as in a Qdrant server.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.translation import ids, reads, vectors
from blemish_local.qdrant.translation.ids import Id

_MAX_CANDIDATES = 16_384
"""Limit of a Qdrant server for MMR, which compares all pairs of candidates."""
_DIVERSITY = 0.5
"""Default of a Qdrant server."""


class QueryExamples:
    """The vectors that a query compares with, given directly or by the ids of points."""

    def __init__(self, size: int, vector_of: Callable[[Id], Any]) -> None:
        self._size = size
        self._vector_of = vector_of
        self._points: set[Id] = set()

    def parse(self, given: pb.VectorInput) -> Any:
        """Return one vector.

        Raises:
            Missing: if the point does not exist or has no vector.
            BadRequest: if the vector does not fit the collection.
        """
        if given.WhichOneof("variant") == "id":
            point = ids.parse_id(given.id)
            self._points.add(point)
            return self._vector_of(point)
        return vectors.parse_query_vector(given, self._size)

    def exclusion(self) -> qe.Filter | None:
        """Return the filter that excludes the points used so far; None if there are none."""
        return qe.Filter(must_not=[qe.HasIdCondition({*self._points})]) if self._points else None

    def average(self, given: pb.RecommendInput) -> Any:
        """Return the average vector of a recommendation.

        Raises:
            BadRequest: if there is no positive example.
        """
        positives = [self.parse(each) for each in given.positive]
        negatives = [self.parse(each) for each in given.negative]
        if not positives:
            raise BadRequest("the recommendation has no positive example; add at least one")
        average = np.mean(positives, axis=0)
        if negatives:
            average = average + average - np.mean(negatives, axis=0)
        return vectors.checked(average, self._size)


def parse_query(request: pb.QueryPoints, examples: QueryExamples) -> qe.Query | qe.Mmr | None:
    """Return the engine's query; None if the points are only listed.

    Raises:
        RequestRejected: for a query that is not valid or not served.
    """
    if not request.HasField("query"):
        return None
    query = request.query
    match query.WhichOneof("variant"):
        case "nearest":
            return qe.Query.Nearest(examples.parse(query.nearest), None)
        case "nearest_with_mmr":
            return _parse_mmr(query.nearest_with_mmr, reads.parse_limit(request), examples)
        case "recommend":
            if query.recommend.strategy != pb.RecommendStrategy.AverageVector:
                raise Unsupported("recommendation strategies other than the average vector")
            return qe.Query.Nearest(examples.average(query.recommend), None)
        case None:
            raise BadRequest("the query is empty; give a vector or a point's id, or leave it out")
        case kind:
            raise Unsupported(f"the query {kind}")


def _parse_mmr(given: pb.NearestInputWithMmr, limit: int, examples: QueryExamples) -> qe.Mmr:
    diversity = given.mmr.diversity if given.mmr.HasField("diversity") else _DIVERSITY
    candidates = given.mmr.candidates_limit if given.mmr.HasField("candidates_limit") else limit
    # The engine accepts any number and returns meaningless hits.
    if not 0 <= diversity <= 1:
        raise BadRequest(f"the diversity of MMR is {diversity:g}; use a number between 0 and 1")
    if candidates > _MAX_CANDIDATES:
        raise BadRequest(f"MMR has {candidates} candidates; use at most {_MAX_CANDIDATES}")
    return qe.Mmr(examples.parse(given.nearest), 1 - diversity, candidates, None)
