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
from blemish_local.qdrant.translation import filters, ids, payloads, reads, schema, writes
from blemish_local.qdrant.translation.vectors import parse_query_vector, parse_stored_vectors

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
def test_payload_survives_the_round_trip(payload: dict[str, Any]) -> None:
    sent = pb.RetrievedPoint(payload=payloads.payload_to_proto(payload))
    back = payloads.parse_payload(pb.RetrievedPoint.FromString(sent.SerializeToString()).payload)
    assert back == payload
    # The comparison above treats 1, 1.0 and True as equal.
    assert types(back) == types(payload)


def types(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: types(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [types(value) for value in plain]
    return type(plain)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_payload_with_a_number_that_is_not_finite_is_rejected(number: float) -> None:
    inner = pb.Struct(fields={"b": pb.Value(double_value=number)})
    fields = {"a": pb.Value(list_value=pb.ListValue(values=[pb.Value(struct_value=inner)]))}
    with pytest.raises(BadRequest, match="not finite"):
        payloads.parse_payload(fields)


@pytest.mark.parametrize("point", [0, 2**64 - 1, UUID(int=7)])
def test_id_survives_the_round_trip(point: int | UUID) -> None:
    assert ids.parse_id(ids.id_to_proto(point)) == point


@pytest.mark.parametrize("given", [pb.PointId(), pb.PointId(uuid="zz"), pb.PointId(uuid="")])
def test_invalid_id_is_rejected(given: pb.PointId) -> None:
    with pytest.raises(BadRequest, match="not a point id"):
        ids.parse_id(given)


@pytest.mark.parametrize("name", ["a", "blemish.tile-1.v2.published", "_", "A" * 200])
def test_valid_name_is_accepted(name: str) -> None:
    assert names.checked(name, "a collection") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "a b", "é", "A" * 201, "a\n"]
)
def test_invalid_name_is_rejected(name: str) -> None:
    with pytest.raises(BadRequest, match="cannot name a collection"):
        names.checked(name, "a collection")


def test_vector_is_read_in_both_forms() -> None:
    dense = pb.Vectors(vector=pb.Vector(dense=pb.DenseVector(data=[1, 2])))
    before_qdrant_1_15 = pb.Vectors(vector=pb.Vector(data=[1, 2]))
    for sent in (dense, before_qdrant_1_15):
        assert {name: list(vector) for name, vector in parse_stored_vectors(sent, 2).items()} == {
            "": [1, 2]
        }
    assert parse_stored_vectors(pb.Vectors(), 2) == {}


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (pb.Vector(dense=pb.DenseVector(data=[1])), BadRequest),
        (pb.Vector(dense=pb.DenseVector(data=[])), BadRequest),
        (pb.Vector(), BadRequest),
        (pb.Vector(dense=pb.DenseVector(data=[1, math.nan])), BadRequest),
        (pb.Vector(data=[1, -math.inf]), BadRequest),
        (pb.Vector(data=[1, 2], indices=pb.SparseIndices(data=[0, 1])), Unsupported),
        (pb.Vector(data=[1, 2, 3, 4], vectors_count=2), Unsupported),
        (pb.Vector(sparse=pb.SparseVector(indices=[0], values=[1])), Unsupported),
        (pb.Vector(multi_dense=pb.MultiDenseVector(vectors=[pb.DenseVector(data=[1, 2])])), Unsupported),
        (pb.Vector(document=pb.Document(text="x")), Unsupported),
    ],
)
def test_invalid_vector_is_rejected(vector: pb.Vector, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_stored_vectors(pb.Vectors(vector=vector), 2)


def test_named_vectors_are_rejected() -> None:
    named = {"x": pb.Vector(data=[1, 2])}
    with pytest.raises(Unsupported, match="named vectors"):
        parse_stored_vectors(pb.Vectors(vectors=pb.NamedVectors(vectors=named)), 2)


def test_query_vector_must_fit_the_collection() -> None:
    given = pb.VectorInput(dense=pb.DenseVector(data=[1, 2]))
    assert list(parse_query_vector(given, 2)) == [1, 2]
    with pytest.raises(BadRequest, match="has 2 values; the collection's vectors have 3"):
        parse_query_vector(given, 3)


@pytest.mark.parametrize(
    ("condition", "error"),
    [
        (pb.Condition(), BadRequest),
        (pb.Condition(field=pb.FieldCondition(key="a")), BadRequest),
        (pb.Condition(field=pb.FieldCondition(key="a", match=pb.Match())), BadRequest),
        (pb.Condition(has_id=pb.HasIdCondition(has_id=[pb.PointId(uuid="zz")])), BadRequest),
        (pb.Condition(field=pb.FieldCondition(key="a", match=pb.Match(text="b"))), Unsupported),
        (pb.Condition(field=pb.FieldCondition(key="a", geo_radius=pb.GeoRadius())), Unsupported),
        (pb.Condition(is_null=pb.IsNullCondition(key="a")), Unsupported),
        (pb.Condition(filter=pb.Filter(min_should=pb.MinShould(min_count=1))), Unsupported),
    ],
)
def test_filter_with_an_invalid_condition_is_rejected(
    condition: pb.Condition, error: type[Exception]
) -> None:
    nested = pb.Filter(should=[pb.Condition(filter=pb.Filter(must_not=[condition]))])
    with pytest.raises(error):
        filters.parse_filter(nested)


def test_write_without_selected_points_is_rejected() -> None:
    with pytest.raises(BadRequest, match="select points"):
        writes.parse_delete(pb.DeletePoints())
    with pytest.raises(BadRequest, match="select points"):
        writes.parse_set_payload(pb.SetPayloadPoints())


def test_payload_is_selected_by_default_as_in_qdrant() -> None:
    assert reads.parse_payload_selector(pb.GetPoints(), default=True) is True
    assert reads.parse_payload_selector(pb.QueryPoints(), default=False) is False
    off = pb.ScrollPoints(with_payload=pb.WithPayloadSelector(enable=False))
    assert reads.parse_payload_selector(off, default=True) is False


def test_limit_defaults_to_ten_and_must_not_be_zero() -> None:
    assert reads.parse_limit(pb.QueryPoints()) == 10
    assert reads.parse_limit(pb.ScrollPoints(limit=3)) == 3
    with pytest.raises(BadRequest, match="at least 1"):
        reads.parse_limit(pb.FacetCounts(limit=0))


def create_request(**params: Any) -> pb.CreateCollection:
    vectors = pb.VectorParams(**{"size": 4, "distance": pb.Distance.Dot, **params})
    return pb.CreateCollection(vectors_config=pb.VectorsConfig(params=vectors))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (pb.CreateCollection(), BadRequest),
        (create_request(size=0), BadRequest),
        (create_request(size=65537), BadRequest),
        (create_request(distance=0), BadRequest),
        (create_request(distance=99), BadRequest),
        (create_request(datatype=pb.Datatype.Float16), Unsupported),
        (create_request(multivector_config={"comparator": pb.MultiVectorComparator.MaxSim}), Unsupported),
        (
            pb.CreateCollection(
                vectors_config=pb.VectorsConfig(
                    params_map=pb.VectorParamsMap(map={"x": create_request().vectors_config.params})
                )
            ),
            Unsupported,
        ),
    ],
)
def test_collection_that_is_not_served_is_rejected(
    request_: pb.CreateCollection, error: type[Exception]
) -> None:
    with pytest.raises(error):
        schema.parse_collection(request_)


def test_payload_index_needs_a_served_type() -> None:
    with pytest.raises(BadRequest, match="has no type"):
        schema.parse_field_type(pb.CreateFieldIndexCollection(field_name="line"))
    with pytest.raises(Unsupported):
        geo = pb.FieldType.FieldTypeGeo
        schema.parse_field_type(pb.CreateFieldIndexCollection(field_name="x", field_type=geo))
