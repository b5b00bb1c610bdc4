# SPDX-License-Identifier: Apache-2.0
"""Strict mode: what a collection refuses to be asked, in the words of a real Qdrant.

The settings are Qdrant's own (``StrictModeConfig``). One that is not enforced here is refused
when it is set, so nobody relies on it. Which index a condition wants follows Qdrant's
``unindexed_field.rs``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.translation import groups
from blemish_local.qdrant.translation import reads as queries

ENFORCED = {
    "enabled",
    "max_query_limit",
    "max_timeout",
    "unindexed_filtering_retrieve",
    "unindexed_filtering_update",
    "search_max_hnsw_ef",
    "search_max_oversampling",
    "search_max_batchsize",
    "upsert_max_batchsize",
}
_ANY = ("bool", "datetime", "float", "geo", "integer", "keyword", "text", "uuid")
_GROUPABLE = ("bool", "integer", "keyword", "uuid")

Indexed = Callable[[], Mapping[str, str]]
"""Returns the kind of index that each field has."""


def served(config: pb.StrictModeConfig) -> pb.StrictModeConfig:
    """Return ``config``.

    Raises:
        Unsupported: if it has a setting that is not enforced.
    """
    if unknown := sorted({part.name for part, _ in config.ListFields()} - ENFORCED):
        raise Unsupported(f"strict mode setting {', '.join(unknown)}")
    return config


class Strict:
    """The rules of one collection."""

    def __init__(self, config: pb.StrictModeConfig, indexed: Indexed) -> None:
        self._config = config
        self._indexed = indexed

    def check(self, request: Any) -> None:
        """Check a request to read or write, whatever its type; some have nothing to check.

        Raises:
            BadRequest: if it asks for what strict mode forbids.
        """
        if not self._config.enabled:
            return
        if "timeout" in request.DESCRIPTOR.fields_by_name and request.HasField("timeout"):
            self._at_most("max_timeout", request.timeout, "timeout")
        match request:
            case pb.QueryPoints():
                self._at_most("max_query_limit", queries.limit(request), "limit")
                self._params(request.params)
                self._read(request)
            case pb.QueryPointGroups():
                limit, size = groups.limits(request)
                self._groupable(request.group_by)
                self._at_most("max_query_limit", limit * size, "limit")
                self._params(request.params)
                self._read(request)
            case pb.ScrollPoints() | pb.FacetCounts():
                self._at_most("max_query_limit", queries.limit(request), "limit")
                self._read(request)
            case pb.CountPoints():
                self._read(request)
            case pb.QueryBatchPoints():
                self._at_most("search_max_batchsize", len(request.query_points), "search batch size")
                for query in request.query_points:
                    self.check(query)
            case pb.UpdateBatchPoints():
                for operation in request.operations:
                    if kind := operation.WhichOneof("operation"):
                        self.check(getattr(operation, kind))
            case pb.UpsertPoints() | pb.PointsUpdateOperation.PointStructList():
                self._at_most("upsert_max_batchsize", len(request.points), "upsert limit")
                self._write(request.update_filter)
            case pb.UpdatePointVectors() | pb.PointsUpdateOperation.UpdateVectors():
                self._at_most("upsert_max_batchsize", len(request.points), "update limit")
                self._write(request.update_filter)
            case pb.PointsSelector():
                self._write(request.filter)
            case (
                pb.DeletePoints()
                | pb.ClearPayloadPoints()
                | pb.PointsUpdateOperation.DeletePoints()
                | pb.PointsUpdateOperation.ClearPayload()
            ):
                self._write(request.points.filter)
            case (
                pb.SetPayloadPoints()
                | pb.DeletePayloadPoints()
                | pb.PointsUpdateOperation.SetPayload()
                | pb.PointsUpdateOperation.OverwritePayload()
                | pb.PointsUpdateOperation.DeletePayload()
            ):
                self._write(request.points_selector.filter)

    def _at_most(self, setting: str, value: float, of: str) -> None:
        most = getattr(self._config, setting)
        if self._config.HasField(setting) and value > most:  # type: ignore[arg-type]  # one of its fields
            raise _forbidden(
                f'Limit exceeded {value:g} > {most:g} for "{of}"',
                f'Reduce the "{of}" parameter to or below {most:g}.',
            )

    def _params(self, params: pb.SearchParams) -> None:
        self._at_most("search_max_oversampling", params.quantization.oversampling, "oversampling")
        self._at_most("search_max_hnsw_ef", params.hnsw_ef, "hnsw_ef")

    def _read(
        self,
        request: pb.QueryPoints | pb.QueryPointGroups | pb.ScrollPoints | pb.CountPoints | pb.FacetCounts,
    ) -> None:
        self._filter("unindexed_filtering_retrieve", request.filter)

    def _write(self, where: pb.Filter) -> None:
        self._filter("unindexed_filtering_update", where)

    def _filter(self, setting: str, where: pb.Filter) -> None:
        indexed = self._indexed() if self._forbids(setting) else None
        for key, kinds in _wanted(where):
            if indexed is not None and indexed.get(key) not in kinds:
                raise _forbidden(
                    f'Index required but not found for "{key}" of one of the following types: '
                    f"[{', '.join(sorted({*kinds}))}]",
                    "Create an index for this key or use a different filter.",
                )

    def _groupable(self, by: str) -> None:
        if not self._forbids("unindexed_filtering_retrieve"):
            return
        kind = self._indexed().get(by)
        if kind not in _GROUPABLE:
            raise _forbidden(
                f'Index of type "{kind.capitalize()}" found for "{by}"'
                if kind
                else f'Index required but not found for "{by}"',
                "Create an index supporting `match` for this key.",
            )

    def _forbids(self, setting: str) -> bool:
        return self._config.HasField(setting) and not getattr(self._config, setting)  # type: ignore[arg-type]


def _forbidden(what: str, cure: str) -> BadRequest:
    return BadRequest(f"Bad request: {what}. Help: {cure}")


def _wanted(given: pb.Filter, within: str = "") -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the fields that are asked about, each with the kinds of index that serve it."""
    for condition in (*given.must, *given.should, *given.must_not, *given.min_should.conditions):
        match condition.WhichOneof("condition_one_of"):
            case "filter":
                yield from _wanted(condition.filter, within)
            case "nested":
                inner = f"{within}{condition.nested.key.removesuffix('[]')}[]."
                yield from _wanted(condition.nested.filter, inner)
            case "is_empty":
                yield within + condition.is_empty.key, _ANY
            case "is_null":
                yield within + condition.is_null.key, _ANY
            case "field" if kinds := [*_kinds(condition.field)]:
                yield within + condition.field.key, kinds


def _kinds(condition: pb.FieldCondition) -> Iterator[str]:
    for part, _ in condition.ListFields():
        match part.name:
            case "match":
                yield from _kinds_to_match(condition.match, condition.key)
            case "range":
                yield from ("float", "integer")
            case "datetime_range":
                yield "datetime"
            case "values_count" | "is_empty" | "is_null":
                yield from _ANY
            case "geo_bounding_box" | "geo_radius" | "geo_polygon":
                yield "geo"


def _kinds_to_match(given: pb.Match, key: str) -> Sequence[str]:
    match given.WhichOneof("match_value"):
        case "keyword":
            return _kinds_of_strings([given.keyword])
        case "keywords":
            return _kinds_of_strings(given.keywords.strings)
        case "except_keywords":
            return _kinds_of_strings(given.except_keywords.strings)
        case "integer":
            return ["integer"]
        case "integers":
            return ["integer"] if given.integers.integers else []
        case "except_integers":
            return ["integer"] if given.except_integers.integers else []
        case "boolean":
            return ["bool"]
        case "text" | "text_any":
            return ["text"]
        # No index here has these two settings, which a real Qdrant asks for.
        case "phrase":
            return ["text with phrase_matching"]
        case "prefix":
            return ["keyword with prefix"]
        case "substring":
            raise _forbidden(
                f'Substring matching is not allowed, used for "{key}": '
                "it scans every value of the field, with or without an index",
                "Use a prefix match or a full-text match instead.",
            )
    return []


def _kinds_of_strings(strings: Sequence[str]) -> Sequence[str]:
    # Any and except of an empty list ask for nothing, so for no index.
    if not strings:
        return []
    return ["keyword", "uuid"] if all(map(_is_uuid, strings)) else ["keyword"]


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
