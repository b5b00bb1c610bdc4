# SPDX-License-Identifier: Apache-2.0
"""Groups: the best points of each value of a payload field, ordered by their best point.

Only strings and integers name groups, like in a Qdrant server. A point with another value is in no group; a
point with a list of values is in several.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import qdrant_edge as qe
from qdrant_client import grpc as pb
from qdrant_client.local.payload_value_extractor import value_by_key

from blemish_local.qdrant.errors import BadRequest, Unsupported

_GROUPS, _GROUP_SIZE = 10, 3
"""Number of groups, and of points in each, if the request does not set them."""
_SHARED = {"query", "filter", "params"}
"""Fields that a grouped query has in common with a plain one."""

GroupId = str | int


@dataclass(frozen=True)
class GroupFilter:
    """A restriction of the points to rank."""

    only: Sequence[GroupId] = ()
    """Groups whose points are ranked; empty for all."""
    without: Sequence[GroupId] = ()
    """Groups to leave out; a point may be left out if it is in no other group."""

    def to_engine(self, by: str) -> qe.Filter:
        """Return the engine's filter; ``by`` is the path of the field."""
        return qe.Filter(
            should=[qe.FieldCondition(by, match=qe.MatchAny(values)) for values in _by_type(self.only)]
            or None,
            must=[qe.FieldCondition(by, match=qe.MatchExcept(values)) for values in _by_type(self.without)]
            or None,
            must_not=[qe.IsEmptyCondition(by)],
        )


Rank = Callable[[int, GroupFilter], Sequence[qe.ScoredPoint]]
"""A function that returns the best points, at most as many as its first argument."""


def parse_limits(request: pb.QueryPointGroups) -> tuple[int, int]:
    """Return the number of groups and the number of points in each.

    Raises:
        BadRequest: if one of them is 0.
    """
    groups = request.limit if request.HasField("limit") else _GROUPS
    size = request.group_size if request.HasField("group_size") else _GROUP_SIZE
    if not groups or not size:
        raise BadRequest("the limit or the group size is 0; use at least 1")
    return groups, size


def gather(rank: Rank, by: str, groups: int, size: int) -> dict[GroupId, list[qe.ScoredPoint]]:
    """Return the best ``groups`` with up to ``size`` points each; ``by`` is the path of the field.

    Rank twice as many points each time until no point of a result can be missing. Full groups are left out
    of the next ranking, and once the best groups are known, all others are. Otherwise small or few groups
    would require a ranking of the whole collection.
    """
    # Groups are in the order of their best points, because later rankings only append.
    found: dict[GroupId, list[qe.ScoredPoint]] = {}
    full: list[GroupId] = []
    limit, among = groups * size, GroupFilter()
    while True:
        ranked = rank(limit, among)
        for group, points in _grouped(ranked, by).items():
            if group not in full:
                found[group] = points[:size]
        best = [*found][:groups]
        full = [group for group, points in found.items() if len(points) >= size]
        incomplete = [group for group in best if group not in full]
        if len(ranked) < limit or (len(best) == groups and not incomplete):
            return {group: found[group] for group in best}
        among = GroupFilter(only=incomplete) if len(best) == groups else GroupFilter(without=full)
        limit *= 2


def ranking_query(request: pb.QueryPointGroups, limit: int) -> pb.QueryPoints:
    """Return the plain query that ranks the points to group; its hits contain only the field.

    Raises:
        Unsupported: for diverse hits, which have no single ranking.
    """
    if request.query.HasField("nearest_with_mmr"):
        raise Unsupported("MMR in a grouped query")
    shared = {part.name: value for part, value in request.ListFields() if part.name in _SHARED}
    field = pb.PayloadIncludeSelector(fields=[request.group_by.removesuffix("[]")])
    return pb.QueryPoints(**shared, limit=limit, with_payload=pb.WithPayloadSelector(include=field))


def group_id_to_proto(group: GroupId) -> pb.GroupId:
    if isinstance(group, str):
        return pb.GroupId(string_value=group)
    return pb.GroupId(unsigned_value=group) if group >= 0 else pb.GroupId(integer_value=group)


def _by_type(groups: Sequence[GroupId]) -> list[Any]:
    names = [group for group in groups if isinstance(group, str)]
    numbers = [group for group in groups if isinstance(group, int)]
    return [values for values in (names, numbers) if values]


def _grouped(ranked: Sequence[qe.ScoredPoint], by: str) -> dict[GroupId, list[qe.ScoredPoint]]:
    found: dict[GroupId, list[qe.ScoredPoint]] = {}
    for point in ranked:
        for group in _groups_of(point.payload, by):
            found.setdefault(group, []).append(point)
    return found


def _groups_of(payload: Any, by: str) -> Sequence[GroupId]:
    values = value_by_key(payload or {}, by) or []
    # Compare types exactly: True is an instance of int.
    if any(type(value) not in (str, int) for value in values):
        return ()
    return [*dict.fromkeys(values)]
