# SPDX-License-Identifier: Apache-2.0
"""Frames of HTTP/2 (RFC 9113), also malformed ones, as an attacker sends them."""

import random
import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
_END_STREAM, _END_HEADERS = 1, 4


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(path: str, token: str = "") -> bytes:
    """Return the header block of a gRPC call, literal and not indexed (RFC 7541)."""

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\x00" + _length(len(name)) + name + _length(len(value)) + value

    block = b"\x83\x86" + b"\x04" + _length(len(path)) + path.encode()
    block += literal(b":authority", b"localhost") + literal(b"content-type", b"application/grpc")
    block += literal(b"te", b"trailers")
    if token:
        block += literal(b"authorization", f"Bearer {token}".encode())
    return block


def call(path: str, stream: int, token: str = "", *, end: bool = True) -> bytes:
    """Return the headers of a call, and with ``end`` an empty message and the end of its stream."""
    opened = frame(HEADERS, headers(path, token), flags=_END_HEADERS, stream=stream)
    return opened + frame(DATA, bytes(5), flags=_END_STREAM, stream=stream) if end else opened


def reset(stream: int) -> bytes:
    """Return a frame that cancels a stream."""
    return frame(RST_STREAM, struct.pack(">I", 8), stream=stream)


def malformed(path: str, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of malformed and excessive connections."""
    noise = random.Random(seed)
    opened = PREFACE + frame(SETTINGS)
    yield "noise", noise.randbytes(4000)
    yield "noise after the preface", PREFACE + noise.randbytes(4000)
    yield "another protocol", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50
    yield "TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise.randbytes(507)
    yield "length without payload", opened + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"
    yield "headers on stream 0", opened + frame(HEADERS, headers(path), flags=_END_HEADERS)
    yield "data on an idle stream", opened + frame(DATA, b"x" * 100, stream=7)
    yield "stream of the server", opened + call(path, 2)
    yield "invalid header block", opened + frame(HEADERS, b"\xff" * 50, flags=_END_HEADERS, stream=1)
    yield "huge header", opened + frame(HEADERS, b"\x00\x01a\x7f\xff\xff\x7f", flags=_END_HEADERS, stream=1)
    yield "window overflow", opened + frame(WINDOW_UPDATE, struct.pack(">I", (1 << 31) - 1)) * 3
    yield (
        "push promise",
        opened + frame(PUSH_PROMISE, bytes(4) + headers(path), flags=_END_HEADERS, stream=1),
    )
    yield "goaway and calls", opened + frame(GOAWAY, bytes(8)) + call(path, 1)
    yield (
        "length of a message beyond the limit",
        opened + call(path, 1, end=False) + frame(DATA, b"\x00\xff\xff\xff\xff", stream=1),
    )
    yield (
        "compressed message",
        opened
        + call(path, 1, end=False)
        + frame(DATA, b"\x01\x00\x00\x00\x04\xde\xad\xbe\xef", flags=_END_STREAM, stream=1),
    )
    yield (
        "flood of continuations",
        opened
        + frame(HEADERS, headers(path), stream=1)
        + frame(CONTINUATION, b"\x00\x01a\x01b" * 100, stream=1) * 2000,
    )
    yield "flood of settings", opened + frame(SETTINGS, struct.pack(">HI", 4, 65535)) * 20_000
    yield "flood of pings", opened + frame(PING, bytes(8)) * 20_000
    yield "flood of empty data", opened + call(path, 1, end=False) + frame(DATA, stream=1) * 20_000
    resets = b"".join(call(path, stream, end=False) + reset(stream) for stream in range(1, 8000, 2))
    yield "flood of resets", opened + resets


def _length(length: int) -> bytes:
    """Return the length of a string without Huffman code, as an integer with a prefix of 7 bits."""
    if length < 127:
        return bytes([length])
    rest, encoded = length - 127, bytearray(b"\x7f")
    while rest >= 128:
        encoded.append(rest % 128 + 128)
        rest //= 128
    return bytes([*encoded, rest])
