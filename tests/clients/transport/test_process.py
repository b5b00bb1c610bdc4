# SPDX-License-Identifier: Apache-2.0
"""Clients in a process that was forked. Each case runs in a process of its own, with a time limit."""

import os
import subprocess
import sys

import pytest

INHERITED = (
    "FailedPrecondition: this client was created before fork(); create a client in the child process"
)
UNUSABLE = "FailedPrecondition: gRPC does not work in this process, because "


def outcome(case: str, target: str, **environment: str) -> str:
    """Return the outcome of the child of a case of ``tests.support.forking``."""
    inherited = {name: text for name, text in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.forking", case, target],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout.strip()


@pytest.mark.parametrize(
    "case",
    [
        "used",
        "unused",
        "streams",
        "watches",
        "leaves_with_block",
        "asyncio_unused",
        "asyncio_used",
        "asyncio_within_loop",
    ],
)
def test_client_created_before_fork_fails_with_a_sentence(case: str, target: str) -> None:
    assert outcome(case, target) == INHERITED


def test_client_may_be_closed_in_the_child(target: str) -> None:
    assert outcome("closes", target) == "ok"


@pytest.mark.parametrize("case", ["new_client", "new_asyncio_client", "new_client_after_asyncio"])
def test_client_created_after_fork_of_an_idle_parent_works(case: str, target: str) -> None:
    assert outcome(case, target) == "ok"


@pytest.mark.parametrize("case", ["new_client_beside_calls", "new_client_beside_stream"])
def test_client_created_after_fork_of_a_busy_parent_fails_with_a_sentence(case: str, target: str) -> None:
    assert outcome(case, target).startswith(UNUSABLE)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("asyncio_streams", INHERITED),
        ("new_client_beside_asyncio_stream", UNUSABLE),
        ("nothing_beside_asyncio_stream", "ok"),
    ],
)
def test_child_of_an_asyncio_stream_does_not_hang(case: str, sentence: str, target: str) -> None:
    """Such a child is sometimes crashed by gRPC 1.85, whether or not it calls anything."""
    assert outcome(case, target).startswith((sentence, "ended by signal 11", "ended by signal 6"))


def test_client_without_fork_support_of_grpc_fails_with_a_sentence(target: str) -> None:
    assert "unset it" in outcome("new_client", target, GRPC_ENABLE_FORK_SUPPORT="false")
