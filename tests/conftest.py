# SPDX-License-Identifier: Apache-2.0
"""Settings of every suite: unit tests open no sockets, and idle threads sleep."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_socket import disable_socket, enable_socket

from blemish_core.platform import gc_tuning, threads

# This must run before a test loads torch.
threads.use_passive_waiting()

# Measuring the speed of a worker takes both cores for a while; tests that need it ask for it.
os.environ.setdefault("BLEMISH_MEASURE_RATES", "false")

WITH_SOCKETS = {"contract", "integration", "chaos", "benchmarks"}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    with gc_tuning.gc_frozen_after():
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    suite = item.path.relative_to(Path(__file__).parent).parts[0]
    if suite in WITH_SOCKETS:
        enable_socket()
    else:
        # asyncio's event loop wakes itself through a Unix socket pair.
        disable_socket(allow_unix_socket=True)
