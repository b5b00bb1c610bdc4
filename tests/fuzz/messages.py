# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies of protobuf messages, made from their descriptors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

Pool = Mapping[str, Sequence[Any]]
"""Plausible values by the name of a field, so that messages pass the first checks."""

_DEPTH = 6
_I32 = [0, 1, -1, 2, 3, 16, 64, 1000, 1001, 2**31 - 1, -(2**31)]
_I64 = [*_I32, 2**32, 2**62, 2**63 - 1, -(2**63), 315_576_000_000, 253_402_300_800, 10**9]
_FLOATS = [0.0, 1.0, 0.5, -1.0, 1e-9, 1e9, 1e38, math.nan, math.inf, -math.inf, -0.0]
_TEXTS = ["", "a", "x" * 5000, "\0", "\n", "ü", "划", "../..", "%s", "'\"", "\u202e", "🙂" * 300]
_FD = FieldDescriptor


def messages(descriptor: Descriptor, pool: Pool) -> SearchStrategy[Message]:
    """Return a strategy of messages of a type."""
    return _composite(descriptor, pool, _DEPTH)


@st.composite
def mutated(draw: DrawFn, data: bytes) -> bytes:
    """Return a serialized message with a few bytes changed, removed or inserted."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        match draw(st.integers(0, 3)):
            case 0 if at < len(changed):
                changed[at] = draw(st.integers(0, 255))
            case 1:
                del changed[at : at + draw(st.integers(1, 8))]
            case 2:
                changed[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                del changed[at:]
    return bytes(changed)


@st.composite
def _composite(draw: DrawFn, descriptor: Descriptor, pool: Pool, depth: int) -> Message:
    message = GetMessageClass(descriptor)()
    chosen = {
        oneof.name: draw(st.sampled_from(list(oneof.fields))).name
        for oneof in descriptor.oneofs
        if len(oneof.fields) > 1
    }
    for field in descriptor.fields:
        if field.message_type is not None and depth <= 0:
            continue
        oneof = field.containing_oneof
        if oneof is not None and chosen.get(oneof.name, field.name) != field.name:
            continue
        if draw(st.integers(0, 1 if field.name not in pool else 7)) == 0:  # left out
            continue
        _set(draw, message, field, pool, depth)
    return message


def _set(draw: DrawFn, message: Message, field: FieldDescriptor, pool: Pool, depth: int) -> None:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        for _ in range(draw(st.integers(0, 2))):
            key = draw(_scalar(kind.fields_by_name["key"], pool))
            value = kind.fields_by_name["value"]
            if value.message_type is not None:
                getattr(message, field.name)[key].CopyFrom(
                    draw(_composite(value.message_type, pool, depth - 1))
                )
            else:
                getattr(message, field.name)[key] = draw(_scalar(value, pool))
    elif field.is_repeated:
        values = _composite(kind, pool, depth - 1) if kind is not None else _scalar(field, pool)
        getattr(message, field.name).extend(draw(st.lists(values, max_size=4)))
    elif kind is not None:
        getattr(message, field.name).CopyFrom(draw(_composite(kind, pool, depth - 1)))
    else:
        setattr(message, field.name, draw(_scalar(field, pool)))


def _scalar(field: FieldDescriptor, pool: Pool) -> SearchStrategy[Any]:
    match field.cpp_type:
        case _FD.CPPTYPE_BOOL:
            return st.booleans()
        case _FD.CPPTYPE_ENUM:
            assert field.enum_type is not None
            numbers = [value.number for value in field.enum_type.values]
            return st.sampled_from([*numbers, -1, 99, 2**31 - 1])
        case _FD.CPPTYPE_DOUBLE | _FD.CPPTYPE_FLOAT:
            is_double = field.cpp_type == _FD.CPPTYPE_DOUBLE
            return st.sampled_from(_FLOATS) | st.floats(width=64 if is_double else 32)
        case _FD.CPPTYPE_INT32:
            return st.sampled_from(_I32) | st.integers(-(2**31), 2**31 - 1) | st.integers(0, 300)
        case _FD.CPPTYPE_INT64:
            return st.sampled_from(_I64) | st.integers(-(2**63), 2**63 - 1)
        case _FD.CPPTYPE_UINT32:
            return st.sampled_from([0, 1, 2**32 - 1]) | st.integers(0, 2**32 - 1)
        case _FD.CPPTYPE_UINT64:
            return st.sampled_from([0, 1, 3, 2**64 - 1]) | st.integers(0, 2**64 - 1)
    known = pool.get(field.name, ())
    usual = st.sampled_from(list(known)) if known else st.nothing()
    usual = usual | usual | usual  # two of three values
    if field.type == _FD.TYPE_BYTES:
        return usual | usual.flatmap(mutated) | st.binary(max_size=200)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
    return usual | usual | st.sampled_from(_TEXTS) | text
