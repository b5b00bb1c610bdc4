# SPDX-License-Identifier: Apache-2.0
"""The names that the package exports, and the order of its imports."""

import subprocess
import sys

import pytest

import blemish_client


@pytest.mark.parametrize("name", blemish_client.__all__)
def test_exported_name_is_that_of_its_module(name: str) -> None:
    assert getattr(blemish_client, name).__name__ == name
    assert name in dir(blemish_client)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        _ = blemish_client.nosuch


def test_command_line_sets_up_grpc_before_its_import() -> None:
    """The log of gRPC reads its level when gRPC is imported."""
    script = "import sys, blemish_client.cli.__main__; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
