# SPDX-License-Identifier: Apache-2.0
"""Groups: the best points of each value of a payload field, the group with the best one first.

As in a real Qdrant, a value that is neither a string nor an integer is no group, and keeps its
point out of all groups; a list puts its point in several.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import qdrant_edge as qe
from qdrant_client import grpc as pb
from qdrant_client.local.payload_value_extractor import value_by_key

from blemish_local.qdrant.errors import BadRequest, Unsupported

_GROUPS, _SIZE = 10, 3
"""How many groups, and points in each, where the request does not say."""
_SHARED = {"prefetch", "query", "using", "filter", "params", "score_threshold", "lookup_from"}
"""What a grouped query says as a plain one does."""

GroupId = str | int


@dataclass(frozen=True)
class Among:
    """Whose points are ranked."""

    only: Sequence[GroupId] = ()
    """The points of these groups alone; of any where there are none."""
    beyond: Sequence[GroupId] = ()
    """Points that are in none but these may be left out."""


Rank = Callable[[int, Among], Sequence[qe.ScoredPoint]]
"""Returns so many points at most, the best first."""


def limits(request: pb.QueryPointGroups) -> tuple[int, int]:
    """Return how many groups are asked for, and how many points of each.

    Raises:
        BadRequest: if none are.
    """
    groups = request.limit if request.HasField("limit") else _GROUPS
    size = request.group_size if request.HasField("group_size") else _SIZE
    if not groups or not size:
        raise BadRequest("the limit or the group size is 0: ask for at least 1")
    return groups, size


def gathered(rank: Rank, by: str, groups: int, size: int) -> dict[GroupId, list[qe.ScoredPoint]]:
    """Return the best ``groups``, with up to ``size`` points each; ``by`` is the field's path.

    It ranks twice as many points each time, until none can be missing. Those of full groups are
    left out, and all but those of the best groups once these are known: otherwise small groups,
    or fewer groups than asked for, would mean to rank the whole collection.
    """
    # In the order of their best points: who is first seen later is no better.
    found: dict[GroupId, list[qe.ScoredPoint]] = {}
    full: list[GroupId] = []
    limit, among = groups * size, Among()
    while True:
        ranked = rank(limit, among)
        for group, points in _grouped(ranked, by).items():
            if group not in full:
                found[group] = points[:size]
        best = [*found][:groups]
        full = [group for group, points in found.items() if len(points) >= size]
        wanting = [group for group in best if group not in full]
        if len(ranked) < limit or (len(best) == groups and not wanting):
            return {group: found[group] for group in best}
        among = Among(only=wanting) if len(best) == groups else Among(beyond=full)
        limit *= 2


def ranking(request: pb.QueryPointGroups, limit: int) -> pb.QueryPoints:
    """Return the plain query that ranks the points to be grouped, with nothing but their groups.

    Raises:
        Unsupported: for what a grouped query has not here.
    """
    if request.HasField("with_lookup"):
        raise Unsupported("lookup of groups in another collection")
    if request.query.HasField("nearest_with_mmr"):
        # Which points are diverse depends on how many are ranked, so there is no one ranking.
        raise Unsupported("MMR in a grouped query")
    shared = {part.name: value for part, value in request.ListFields() if part.name in _SHARED}
    field = pb.PayloadIncludeSelector(fields=[request.group_by.removesuffix("[]")])
    return pb.QueryPoints(**shared, limit=limit, with_payload=pb.WithPayloadSelector(include=field))


def members(by: str, among: Among) -> qe.Filter:
    """Return the filter for the points of some groups."""
    return qe.Filter(
        should=[qe.FieldCondition(by, match=qe.MatchAny(values)) for values in _by_type(among.only)]
        or None,
        must=[qe.FieldCondition(by, match=qe.MatchExcept(values)) for values in _by_type(among.beyond)]
        or None,
        must_not=[qe.IsEmptyCondition(by)],
    )


def _by_type(groups: Sequence[GroupId]) -> list[Any]:
    names = [group for group in groups if isinstance(group, str)]
    numbers = [group for group in groups if isinstance(group, int)]
    return [values for values in (names, numbers) if values]


def id_to_proto(group: GroupId) -> pb.GroupId:
    if isinstance(group, str):
        return pb.GroupId(string_value=group)
    return pb.GroupId(unsigned_value=group) if group >= 0 else pb.GroupId(integer_value=group)


def _grouped(ranked: Sequence[qe.ScoredPoint], by: str) -> dict[GroupId, list[qe.ScoredPoint]]:
    found: dict[GroupId, list[qe.ScoredPoint]] = {}
    for point in ranked:
        for group in _groups_of(point.payload, by):
            found.setdefault(group, []).append(point)
    return found


def _groups_of(payload: Any, by: str) -> Sequence[GroupId]:
    values = value_by_key(payload or {}, by) or []
    # By type: True is an int too.
    if any(type(value) not in (str, int) for value in values):
        return ()
    return [*dict.fromkeys(values)]
