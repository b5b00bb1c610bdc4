# SPDX-License-Identifier: Apache-2.0
from typing import Any
from uuid import UUID

import pytest
from qdrant_client import grpc as pb

from blemish_local.qdrant import strict
from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.strict import Strict


def rules(indexed: Any = None, **settings: Any) -> Strict:
    return Strict(pb.StrictModeConfig(**{"enabled": True, **settings}), lambda: indexed or {})


def counting(**condition: Any) -> pb.CountPoints:
    field = pb.FieldCondition(key="k", **condition)
    return pb.CountPoints(filter=pb.Filter(must=[pb.Condition(field=field)]))


def match(**value: Any) -> dict[str, Any]:
    return {"match": pb.Match(**value)}


UUID_TEXT = str(UUID(int=3))


@pytest.mark.parametrize(
    ("condition", "kinds"),
    [
        (match(keyword="a"), {"keyword"}),
        (match(keyword=UUID_TEXT), {"keyword", "uuid"}),
        (match(keywords=pb.RepeatedStrings(strings=[UUID_TEXT, "a"])), {"keyword"}),
        (match(except_keywords=pb.RepeatedStrings(strings=["a"])), {"keyword"}),
        (match(integer=1), {"integer"}),
        (match(integers=pb.RepeatedIntegers(integers=[1])), {"integer"}),
        (match(except_integers=pb.RepeatedIntegers(integers=[1])), {"integer"}),
        (match(boolean=True), {"bool"}),
        (match(text="a"), {"text"}),
        (match(phrase="a"), set()),
        (match(prefix="a"), set()),
        (match(substring="a"), set()),
        ({"range": pb.Range(gt=1)}, {"integer", "float"}),
        ({"datetime_range": pb.DatetimeRange()}, {"datetime"}),
        ({"values_count": pb.ValuesCount(gt=1)}, {*strict._ANY}),
        ({"is_empty": True}, {*strict._ANY}),
    ],
)
def test_a_condition_wants_an_index_that_serves_it(condition: dict[str, Any], kinds: set[str]) -> None:
    for kind in (*strict._ANY, None):
        these = rules({"k": kind} if kind else {}, unindexed_filtering_retrieve=False)
        if kind in kinds:
            these.check(counting(**condition))
        else:
            with pytest.raises(BadRequest, match=r"^Bad request: .*\. Help: "):
                these.check(counting(**condition))


@pytest.mark.parametrize(
    "value", [{"keywords": pb.RepeatedStrings()}, {"except_integers": pb.RepeatedIntegers()}]
)
def test_a_list_of_nothing_wants_no_index(value: dict[str, Any]) -> None:
    rules(unindexed_filtering_retrieve=False).check(counting(**match(**value)))


def test_a_nested_condition_wants_the_index_on_the_whole_path() -> None:
    inner = counting(**match(integer=1)).filter
    nested = pb.NestedCondition(key="parts", filter=inner)
    asked = pb.CountPoints(filter=pb.Filter(must_not=[pb.Condition(nested=nested)]))
    rules({"parts[].k": "integer"}, unindexed_filtering_retrieve=False).check(asked)
    with pytest.raises(BadRequest, match=r'"parts\[\]\.k"'):
        rules({"k": "integer"}, unindexed_filtering_retrieve=False).check(asked)


@pytest.mark.parametrize(("setting", "reads"), [("retrieve", True), ("update", False)])
def test_reads_and_writes_have_a_rule_each(setting: str, reads: bool) -> None:
    where = counting(**match(integer=1)).filter
    write = pb.DeletePoints(points=pb.PointsSelector(filter=where))
    read = pb.CountPoints(filter=where)
    these = rules(**{f"unindexed_filtering_{setting}": False})
    these.check(write if reads else read)
    with pytest.raises(BadRequest):
        these.check(read if reads else write)


def test_a_group_wants_an_index_that_matches() -> None:
    asked = pb.QueryPointGroups(group_by="k", limit=1, group_size=1)
    rules({"k": "keyword"}, unindexed_filtering_retrieve=False).check(asked)
    for indexed, said in (({}, "not found"), ({"k": "float"}, 'type "Float"')):
        with pytest.raises(BadRequest, match=said):
            rules(indexed, unindexed_filtering_retrieve=False).check(asked)


def test_nothing_is_checked_unless_enabled() -> None:
    off = Strict(
        pb.StrictModeConfig(max_query_limit=1, unindexed_filtering_retrieve=False),
        lambda: pytest.fail("indexes were looked up"),
    )
    off.check(pb.ScrollPoints(limit=5, filter=counting(**match(integer=1)).filter))


def test_a_limit_that_is_not_named_is_checked_too() -> None:
    for request in (pb.ScrollPoints(), pb.QueryPoints(), pb.FacetCounts()):
        with pytest.raises(BadRequest, match="10 > 9"):
            rules(max_query_limit=9).check(request)
    with pytest.raises(BadRequest, match="30 > 29"):
        rules(max_query_limit=29).check(pb.QueryPointGroups())


def test_a_setting_is_enforced_or_refused() -> None:
    for field in pb.StrictModeConfig.DESCRIPTOR.fields:
        config = pb.StrictModeConfig()
        if field.message_type is None:
            setattr(config, field.name, 1)
        else:
            getattr(config, field.name).SetInParent()
        if field.name in strict.ENFORCED:
            assert strict.served(config) is config
        else:
            with pytest.raises(Unsupported, match=field.name):
                strict.served(config)
