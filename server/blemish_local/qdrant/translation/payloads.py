# SPDX-License-Identifier: Apache-2.0
"""Payloads: Qdrant's protobuf form of JSON, which distinguishes integers, and Python values."""

import math
from collections.abc import Mapping
from typing import Any

from qdrant_client.grpc import ListValue, NullValue, Struct, Value

from blemish_local.qdrant.errors import BadRequest

Payload = dict[str, Any]


def parse_payload(fields: Mapping[str, Value]) -> Payload:
    """Parse a payload.

    Raises:
        BadRequest: if it contains a number that is not finite, which JSON cannot express.
    """
    return {key: _plain(fields[key]) for key in fields}


def payload_to_proto(payload: Mapping[str, Any] | None) -> dict[str, Value]:
    """Convert a payload that the engine returned; None counts as empty."""
    return {key: _value(plain) for key, plain in (payload or {}).items()}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "struct_value":
        return parse_payload(value.struct_value.fields)
    if kind == "double_value" and not math.isfinite(value.double_value):
        raise BadRequest("the payload contains a number that is not finite; leave it out or send null")
    return getattr(value, kind)


def _value(plain: Any) -> Value:
    match plain:
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case bool():
            return Value(bool_value=plain)
        case int():
            return Value(integer_value=plain)
        case float():
            return Value(double_value=plain)
        case str():
            return Value(string_value=plain)
        case list():
            return Value(list_value=ListValue(values=map(_value, plain)))
        case dict():
            return Value(struct_value=Struct(fields=payload_to_proto(plain)))
    raise TypeError(f"the engine returned a {type(plain).__name__} in a payload; this is a bug")
