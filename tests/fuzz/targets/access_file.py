# SPDX-License-Identifier: Apache-2.0
"""Access files."""

from tests.fuzz.target import Target, scratch

from blemish_server.auth.access import Caller, digest, read_callers


def run(data: bytes) -> None:
    with scratch() as folder:
        file = folder / "access.json"
        file.write_bytes(data)
        for hashed, caller in read_callers(file).items():
            assert isinstance(caller, Caller)
            assert len(hashed) == 64
    digest(data.decode(errors="surrogateescape"))


def seeds() -> dict[str, bytes]:
    caller = b'{"role":"%s","token_sha256":"' + b"0" * 64 + b'","granted":"2026-01-01T00:00:00Z"%s}'
    return {
        "one": b'{"callers":{"line-1":' + caller % (b"camera", b"") + b"}}",
        "urgent": b'{"callers":{"a":' + caller % (b"operator", b',"most_urgent":"audit"') + b"}}",
        "none": b'{"callers":{}}',
    }


_WORDS = (
    '"callers":',
    '"role":',
    '"most_urgent":',
    '"token_sha256":',
    '"granted":',
    "camera",
    "service",
    "operator",
    "audit",
    "line-stop",
    "backfill",
)

TARGET = Target(run, seeds, words=_WORDS)
