# SPDX-License-Identifier: Apache-2.0
"""The lines that ``blemish up`` prints when it is ready."""

import os
from pathlib import Path

from blemish_local.address import Address, SocketAddress, parse
from blemish_local.data_directory import DataDirectory
from blemish_local.launching.announcement import announcement
from blemish_local.options import resolve
from blemish_local.stack import compose


def announced(tmp_path: Path, listen: Address | SocketAddress, **environment: str) -> list[str]:
    """Return the lines of a stack on these settings."""
    elsewhere = {"REDIS_URL": "redis://r:6379/0", "QDRANT_URL": "http://q:6333"}
    options = resolve({"PATH": os.environ["PATH"], **elsewhere, **environment})
    data = DataDirectory(tmp_path)
    return announcement(options, data, listen, compose(options, data, listen)).splitlines()


def test_stack_without_protection_is_described(tmp_path: Path) -> None:
    lines = announced(tmp_path, Address("127.0.0.1", 50051))

    assert "  tls      off" in lines
    assert "  access   off; every caller may do everything" in lines
    assert "  metrics  off (see BLEMISH_METRICS_LISTEN)" in lines
    assert "  try it   blemish --server 127.0.0.1:50051 info" in lines


def test_address_of_the_metrics_can_be_opened(tmp_path: Path) -> None:
    lines = announced(tmp_path, Address("127.0.0.1", 1), BLEMISH_METRICS_LISTEN="0.0.0.0:9464")
    assert "  metrics  http://127.0.0.1:9464/metrics" in lines


def test_command_names_the_token_that_it_needs(tmp_path: Path) -> None:
    file = tmp_path / "our callers.json"
    lines = announced(tmp_path, Address("0.0.0.0", 50051), BLEMISH_ACCESS_FILE=str(file))

    assert "blemish is up at 127.0.0.1:50051  (open to other machines)" in lines
    assert f"  access   by token, {file}" in lines
    assert "  try it   BLEMISH_TOKEN=TOKEN blemish --server 127.0.0.1:50051 info" in lines
    grant = f"with a TOKEN of: blemish access grant NAME --role operator --file '{file}'"
    assert f"           {grant}" in lines


def test_command_uses_the_token_of_the_environment(tmp_path: Path) -> None:
    lines = announced(
        tmp_path, Address("127.0.0.1", 1), BLEMISH_ACCESS_FILE="callers.json", BLEMISH_TOKEN="secret"
    )
    assert "  try it   blemish --server 127.0.0.1:1 info" in lines
    assert "secret" not in "".join(lines)


def test_command_verifies_the_certificate(tmp_path: Path) -> None:
    certificate = tmp_path / "chain.pem"
    socket = tmp_path / "blemish.sock"
    lines = announced(
        tmp_path,
        parse(f"unix:{socket}"),
        BLEMISH_TLS_CERTIFICATE=str(certificate),
        BLEMISH_TLS_KEY="key.pem",
    )
    assert f"  tls      on, {certificate}" in lines
    assert f"  try it   blemish --server unix:{socket} --roots {certificate} info" in lines
