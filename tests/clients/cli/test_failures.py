# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from tests.support.cli import Run
from tests.support.fake_server import CallError, FakeServer
from typer.testing import CliRunner

from blemish_client.cli import failures
from blemish_client.cli.app import app


@pytest.mark.parametrize(
    ("command", "method", "target_name"),
    [
        (
            ["dataset", "remove", "tile", "a.png", "b.png"],
            "DeleteImages",
            "2 images from datasets/tile",
        ),
        (["dataset", "remove", "tile", "a.png"], "DeleteImages", "a.png from datasets/tile"),
        (
            ["dataset", "move", "tile", "test/crack/a.png", "--to", "test/good"],
            "MoveImages",
            "the masks of images that move to test/good of datasets/tile",
        ),
        (["dataset", "delete", "tile"], "DeleteDataset", "datasets/tile"),
        (["models", "delete", "m/3"], "DeleteModel", "models/m/versions/3"),
        (["models", "delete", "m", "--force"], "DeleteModel", "models/m"),
    ],
)
def test_deletion_requires_confirmation(
    run: Run,
    fake: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    method: str,
    target_name: str,
) -> None:
    unattended = run(*command)
    assert unattended.exit_code == 2
    assert f"without a terminal; pass --yes to delete {target_name}" in unattended.stderr
    monkeypatch.setattr(failures, "can_ask", lambda: True)
    declined = run(*command, stdin="n\n")
    assert declined.exit_code == 1
    assert f"Permanently delete {target_name}?" in declined.stderr
    assert not fake.requests[method]
    for confirmed in (run(*command, stdin="y\n"), run(*command, "--yes")):
        assert confirmed.exit_code == 0, confirmed.stderr
    assert len(fake.requests[method]) == 2


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.ALREADY_EXISTS, 2),
        (grpc.StatusCode.FAILED_PRECONDITION, 2),
        (grpc.StatusCode.ABORTED, 2),
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.UNAVAILABLE, 4),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 4),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 4),
        (grpc.StatusCode.INTERNAL, 5),
        (grpc.StatusCode.DATA_LOSS, 5),
        (grpc.StatusCode.UNKNOWN, 5),
    ],
)
def test_exit_codes(run: Run, fake: FakeServer, code: grpc.StatusCode, exit_code: int) -> None:
    fake.errors["GetModel"] = [CallError(code, "the cause:\nand the cure")]
    result = run("models", "show", "m")
    assert result.exit_code == exit_code
    (line,) = result.stderr.splitlines()
    assert line.startswith("blemish: ")
    assert "the cause: and the cure" in line


def test_caret_of_a_malformed_filter_stays_below_its_column(run: Run, fake: FakeServer) -> None:
    message = "column 9: klass is unknown; use class\n  label = 5 klass = a\n            ^"
    fake.errors["ListItems"] = [CallError(grpc.StatusCode.INVALID_ARGUMENT, message, field="where")]
    result = run("items", "-m", "m", "--where", "label = 5 klass = a")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "blemish: column 9: klass is unknown; use class",
        "  label = 5 klass = a",
        "            ^",
    ]


def test_unreachable_server_is_reported_with_remedy(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'n'}"
    result = CliRunner().invoke(app, ["info"], env={"BLEMISH_SERVER": address})
    assert result.exit_code == 4
    (line,) = result.stderr.splitlines()
    assert address in line
    assert "blemish up" in line


def test_server_that_requires_tls_is_named_with_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"unix:{tmp_path / 'n'}"
    monkeypatch.setattr(failures, "answers_with_tls", lambda target: target == address)
    result = CliRunner().invoke(app, ["info"], env={"BLEMISH_SERVER": address})
    assert result.exit_code == 4
    assert f"the server at {address} requires TLS; connect with --roots FILE" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("command", [["--help"], ["completion", "bash"]])
def test_output_on_a_full_disk_ends_with_a_sentence(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "blemish_client.cli", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "blemish: cannot write the output (No space left on device); free some space\n"
