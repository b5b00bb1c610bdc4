# SPDX-License-Identifier: Apache-2.0
import math
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.storage import names
from blemish_local.qdrant.translation import filters, ids, payloads, schema
from blemish_local.qdrant.translation import reads as queries
from blemish_local.qdrant.translation import writes as updates
from blemish_local.qdrant.translation.vectors import VectorSpace

SPACE = VectorSpace({"": 2})

json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json, max_size=4))
def test_a_payload_comes_back_as_it_went(payload: dict[str, Any]) -> None:
    sent = pb.RetrievedPoint(payload=payloads.to_proto(payload))
    back = payloads.from_proto(pb.RetrievedPoint.FromString(sent.SerializeToString()).payload)
    assert back == payload
    # For which 1, 1.0 and True were the same.
    assert types(back) == types(payload)


def types(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: types(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [types(value) for value in plain]
    return type(plain)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_payload_holds_finite_numbers(number: float) -> None:
    inner = pb.Struct(fields={"b": pb.Value(double_value=number)})
    fields = {"a": pb.Value(list_value=pb.ListValue(values=[pb.Value(struct_value=inner)]))}
    with pytest.raises(BadRequest, match="not finite"):
        payloads.from_proto(fields)


@pytest.mark.parametrize("point", [0, 2**64 - 1, UUID(int=7)])
def test_an_id_comes_back_as_it_went(point: int | UUID) -> None:
    assert ids.from_proto(ids.to_proto(point)) == point


@pytest.mark.parametrize("given", [pb.PointId(), pb.PointId(uuid="zz"), pb.PointId(uuid="")])
def test_what_is_no_id_is_refused(given: pb.PointId) -> None:
    with pytest.raises(BadRequest, match="not a point id"):
        ids.from_proto(given)


@pytest.mark.parametrize("name", ["a", "blemish.tile-1.v2.published", "_", "A" * 200])
def test_a_name_may_be(name: str) -> None:
    assert names.checked(name, "a collection") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "a b", "é", "A" * 201, "a\n"]
)
def test_a_name_may_not_be(name: str) -> None:
    with pytest.raises(BadRequest, match="cannot name a collection"):
        names.checked(name, "a collection")


def test_vectors_are_read_by_name() -> None:
    one = pb.Vectors(vector=pb.Vector(dense=pb.DenseVector(data=[1, 2])))
    old = pb.Vectors(vector=pb.Vector(data=[1, 2]))
    for sent in (one, old):
        assert {name: list(vector) for name, vector in SPACE.of_point(sent).items()} == {"": [1, 2]}
    assert SPACE.of_point(pb.Vectors()) == {}


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (pb.Vector(dense=pb.DenseVector(data=[1])), BadRequest),
        (pb.Vector(dense=pb.DenseVector(data=[])), BadRequest),
        (pb.Vector(), BadRequest),
        (pb.Vector(dense=pb.DenseVector(data=[1, math.nan])), BadRequest),
        (pb.Vector(data=[1, -math.inf]), BadRequest),
        (pb.Vector(data=[1, 2], indices=pb.SparseIndices(data=[0, 1])), BadRequest),
        (pb.Vector(sparse=pb.SparseVector(indices=[0], values=[1])), BadRequest),
        (pb.Vector(multi_dense=pb.MultiDenseVector(vectors=[pb.DenseVector(data=[1, 2])])), BadRequest),
        (pb.Vector(document=pb.Document(text="x")), Unsupported),
    ],
)
def test_what_is_no_vector_here_is_refused(vector: pb.Vector, error: type[Exception]) -> None:
    with pytest.raises(error):
        SPACE.of_point(pb.Vectors(vector=vector))
    with pytest.raises(error):
        SPACE.of_point(pb.Vectors(vectors=pb.NamedVectors(vectors={"": vector})))


def test_a_vector_of_another_name_is_refused_with_the_names_there_are() -> None:
    named = {"x": pb.Vector(data=[1, 2])}
    with pytest.raises(BadRequest, match="named 'x', only 'image', 'part'"):
        VectorSpace({"image": 2, "part": 2}).of_point(pb.Vectors(vectors=pb.NamedVectors(vectors=named)))


@pytest.mark.parametrize(
    ("condition", "error"),
    [
        (pb.Condition(), BadRequest),
        (pb.Condition(field=pb.FieldCondition(key="a")), BadRequest),
        (pb.Condition(field=pb.FieldCondition(key="a", match=pb.Match())), BadRequest),
        (pb.Condition(field=pb.FieldCondition(key="a", geo_radius=pb.GeoRadius())), Unsupported),
        (pb.Condition(slice=pb.SliceCondition()), Unsupported),
        (pb.Condition(has_id=pb.HasIdCondition(has_id=[pb.PointId(uuid="zz")])), BadRequest),
    ],
)
def test_a_filter_with_a_part_that_says_nothing_is_refused(
    condition: pb.Condition, error: type[Exception]
) -> None:
    nested = pb.Filter(should=[pb.Condition(filter=pb.Filter(must_not=[condition]))])
    with pytest.raises(error):
        filters.from_proto(nested)


def test_a_write_that_names_no_points_is_refused() -> None:
    for read in (updates.delete, updates.clear_payload):
        with pytest.raises(BadRequest, match="which points"):
            read(pb.PointsSelector())
    with pytest.raises(BadRequest, match="which points"):
        updates.set_payload(pb.SetPayloadPoints())
    with pytest.raises(BadRequest, match="empty"):
        updates.of_batch(pb.PointsUpdateOperation(), SPACE)


def test_a_payload_is_returned_by_default_where_qdrant_returns_it() -> None:
    assert queries.payload_wanted(pb.GetPoints(), otherwise=True) is True
    assert queries.payload_wanted(pb.QueryPoints(), otherwise=False) is False
    off = pb.ScrollPoints(with_payload=pb.WithPayloadSelector(enable=False))
    assert queries.payload_wanted(off, otherwise=True) is False


def test_a_limit_is_ten_unless_told_and_never_zero() -> None:
    assert queries.limit(pb.QueryPoints()) == 10
    assert queries.limit(pb.ScrollPoints(limit=3)) == 3
    with pytest.raises(BadRequest, match="at least 1"):
        queries.limit(pb.FacetCounts(limit=0))


def vectors(**params: Any) -> pb.VectorsConfig:
    return pb.VectorsConfig(params=pb.VectorParams(**{"size": 4, "distance": pb.Distance.Dot, **params}))


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (pb.CreateCollection(), BadRequest),
        (pb.CreateCollection(vectors_config=vectors(size=0)), BadRequest),
        (pb.CreateCollection(vectors_config=vectors(size=65537)), BadRequest),
        (pb.CreateCollection(vectors_config=vectors(distance=0)), BadRequest),
        (pb.CreateCollection(vectors_config=vectors(distance=99)), BadRequest),
        (pb.CreateCollection(vectors_config=vectors(datatype=99)), Unsupported),
        (pb.CreateCollection(vectors_config=vectors(multivector_config={"comparator": 9})), Unsupported),
        (
            pb.CreateCollection(
                vectors_config=vectors(), strict_mode_config=pb.StrictModeConfig(filter_max_conditions=3)
            ),
            Unsupported,
        ),
        (
            pb.CreateCollection(
                vectors_config=vectors(),
                sparse_vectors_config=pb.SparseVectorConfig(map={"s": pb.SparseVectorParams()}),
            ),
            Unsupported,
        ),
        (
            pb.CreateCollection(
                vectors_config=pb.VectorsConfig(
                    params_map=pb.VectorParamsMap(map={"../x": vectors().params})
                )
            ),
            BadRequest,
        ),
    ],
)
def test_a_collection_that_cannot_be_is_refused(asked: pb.CreateCollection, error: type[Exception]) -> None:
    with pytest.raises(error):
        schema.shard_config(asked)


def test_a_payload_index_takes_hints_and_no_more() -> None:
    def asked(params: pb.KeywordIndexParams) -> pb.CreateFieldIndexCollection:
        return pb.CreateFieldIndexCollection(
            field_name="line",
            field_type=pb.FieldType.FieldTypeKeyword,
            field_index_params=pb.PayloadIndexParams(keyword_index_params=params),
        )

    schema.field_type(asked(pb.KeywordIndexParams(is_tenant=True, on_disk=True)))
    with pytest.raises(Unsupported, match="nested"):
        schema.field_type(asked(pb.KeywordIndexParams(nested="parts")))
    with pytest.raises(BadRequest, match="no type"):
        schema.field_type(pb.CreateFieldIndexCollection(field_name="line"))
    with pytest.raises(Unsupported):
        geo = pb.FieldType.FieldTypeGeo
        schema.field_type(pb.CreateFieldIndexCollection(field_name="x", field_type=geo))


ROWS = [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    "sent",
    [
        pb.Vector(multi_dense=pb.MultiDenseVector(vectors=[pb.DenseVector(data=row) for row in ROWS])),
        pb.Vector(data=[1, 2, 3, 4, 5, 6], vectors_count=3),
    ],
)
def test_a_multivector_is_read_in_either_form(sent: pb.Vector) -> None:
    (read,) = VectorSpace({"": 2}, [""]).of_point(pb.Vectors(vector=sent)).values()
    assert [list(row) for row in read] == ROWS


@pytest.mark.parametrize(
    "sent",
    [
        pb.Vector(data=[1, 2, 3], vectors_count=2),
        pb.Vector(data=[1, 2, 3, 4], vectors_count=1),
        pb.Vector(data=[1, 2], vectors_count=0),
        pb.Vector(multi_dense=pb.MultiDenseVector()),
        pb.Vector(multi_dense=pb.MultiDenseVector(vectors=[pb.DenseVector(data=[1, math.nan])])),
    ],
)
def test_what_is_no_multivector_is_refused(sent: pb.Vector) -> None:
    with pytest.raises(BadRequest):
        VectorSpace({"": 2}, [""]).of_point(pb.Vectors(vector=sent))


def test_settings_that_are_not_named_stay() -> None:
    asked = pb.CreateCollection(
        vectors_config=vectors(),
        strict_mode_config=pb.StrictModeConfig(enabled=True, max_query_limit=7),
        metadata={"a": pb.Value(integer_value=1)},
    )
    after = schema.changed(
        asked,
        pb.UpdateCollection(
            strict_mode_config=pb.StrictModeConfig(enabled=False),
            metadata={"b": pb.Value(string_value="x")},
        ),
    )
    assert after.strict_mode_config == pb.StrictModeConfig(enabled=False, max_query_limit=7)
    assert {*after.metadata} == {"a", "b"}
    assert asked.strict_mode_config.enabled, "the settings that are still in force were changed"
