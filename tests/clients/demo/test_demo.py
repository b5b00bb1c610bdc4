# SPDX-License-Identifier: Apache-2.0
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from tests.support.fake_server import CallError, FakeServer, ended, hit, write_dataset_folder
from typer.testing import CliRunner, Result

from blemish.v1.job_pb2 import JOB_STATE_FAILED
from blemish_client.cli.app import app
from blemish_client.cli.extras import UP
from blemish_client.cli.failures import Failure
from blemish_client.demo import material
from blemish_client.demo.material import Drawing, Material, given
from blemish_client.demo.stack import running

# A minimal stand-in for the stack. It checks for signals and for the end of its input.
_UP = """
import pathlib, select, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({stopped!r}).touch(), sys.exit()))
file = pathlib.Path(sys.argv[sys.argv.index("--address-file") + 1])
file.with_suffix(".new").write_text("127.0.0.1:7\\n")
file.with_suffix(".new").rename(file)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    pass
"""

_INTERRUPTED = """
import pathlib, time
from blemish_client.demo.stack import ended_like_ctrl_c, running
folder = pathlib.Path({folder!r})
with ended_like_ctrl_c(), running(folder / "data", folder, {command!r}):
    print("up", flush=True)
    time.sleep(60)
"""


def standing_in(stopped: Path) -> list[str]:
    return [sys.executable, "-c", _UP.format(stopped=str(stopped))]


def test_the_stack_is_started_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://production")
    stopped = tmp_path / "stopped"
    with running(tmp_path / "data", tmp_path, standing_in(stopped)) as stack:
        assert stack.address == "127.0.0.1:7"
        assert stack.death() is None
        assert not stopped.exists()
        told = Path(f"/proc/{stack.child.pid}/environ")
        if told.exists():
            assert b"redis://production" not in told.read_bytes()
    assert stopped.exists()


def test_the_stack_is_stopped_after_an_error(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    with pytest.raises(ZeroDivisionError), running(tmp_path / "data", tmp_path, standing_in(stopped)):
        raise ZeroDivisionError
    assert stopped.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_stack_is_stopped_after_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    stopped = tmp_path / "stopped"
    script = _INTERRUPTED.format(folder=str(tmp_path), command=standing_in(stopped))
    # Its own process: a signal that is not caught would end the tests without a report.
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == "up\n"
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == -signal.SIGINT  # as after Ctrl-C
    assert "KeyboardInterrupt" in errors
    assert stopped.exists()


def test_stack_that_fails_to_start_is_reported(tmp_path: Path) -> None:
    dies = [sys.executable, "-c", "import sys; sys.exit('the port is taken')"]
    why = pytest.raises(Failure, match="ended with code 1:\n  the port is taken")
    with why, running(tmp_path / "data", tmp_path, dies):
        pytest.fail("it never was up")


def test_a_stack_that_dies_later_is_noticed(tmp_path: Path) -> None:
    with running(tmp_path / "data", tmp_path, standing_in(tmp_path / "stopped")) as stack:
        stack.child.kill()
        stack.child.wait()
        assert "ended with code -9" in str(stack.death())


def test_given_folder_may_hold_one_category_or_several(tmp_path: Path) -> None:
    for name in ("Tile No. 1", "leather"):
        write_dataset_folder(tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [material.id for material in given(tmp_path, ())] == ["tile-no-1", "leather"]
    assert [material.id for material in given(tmp_path / "leather", ())] == ["leather"]
    assert [material.id for material in given(tmp_path, ["leather"])] == ["leather"]
    with pytest.raises(Failure, match="no category grid; it has tile-no-1, leather"):
        given(tmp_path, ["grid"])
    for nowhere in (tmp_path / "notes", tmp_path / "absent"):
        with pytest.raises(Failure):
            given(nowhere, ())


def test_material_lists_its_defects_and_masks(tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)
    (tmp_path / "test/empty").mkdir()
    material = Material("tile", tmp_path)
    assert material.defects() == ["crack"]
    (crack,) = material.images("crack")
    assert material.mask(crack) == tmp_path / "ground_truth/crack/000_mask.png"
    assert material.mask(material.images("good")[0]) is None


def test_drawing_yields_each_category_once_it_is_complete(tmp_path: Path) -> None:
    lines: list[str] = []
    script = "print('tile: 3 images, in /x'); print('a warning'); print('grid: 2 images, in /y')"
    with Drawing(tmp_path, ["tile", "grid"], 0, [sys.executable, "-c", script]) as drawing:
        materials = list(drawing.materials(lines.append))
    assert materials == [Material("tile", tmp_path / "tile"), Material("grid", tmp_path / "grid")]
    assert lines == ["tile: 3 images", "grid: 2 images"]


def test_drawing_fails_with_the_last_line(tmp_path: Path) -> None:
    script = "import sys; sys.exit('not a surface')"
    with (
        Drawing(tmp_path, ["tile"], 0, [sys.executable, "-c", script]) as drawing,
        pytest.raises(Failure, match="cannot draw surfaces: not a surface"),
    ):
        list(drawing.materials(lambda _: None))


def test_interrupted_drawing_leaves_no_process(tmp_path: Path) -> None:
    with Drawing(tmp_path, ["tile", "grid"], 0) as drawing:
        give_up = time.monotonic() + 60
        while not list(tmp_path.glob("tile/train/good/*.png")):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        generator = psutil.Process(drawing.pid)
        processes = [generator, *generator.children(recursive=True)]
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


@dataclass
class FakeStack:
    """A stack whose server is the fake one."""

    address: str
    failure: Failure | None = None

    def death(self) -> Failure | None:
        """Return how the stack ended."""
        return self.failure


@pytest.fixture
def server(target: str, monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    """Replace the stack that the demo starts by the fake server."""
    stack = FakeStack(target)

    @contextmanager
    def stand_in(*_: Any) -> Iterator[FakeStack]:
        yield stack

    monkeypatch.setattr("blemish_client.demo.run.running", stand_in)
    monkeypatch.setattr("blemish_client.cli.commands.demo.UP", replace(UP, requires=()))
    return stack


def demo(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["demo", *map(str, arguments)], catch_exceptions=False)


def test_the_whole_demo(server: FakeStack, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path / "tile")
    fake.hits = [hit("crack", 0.9, 0), hit("crack", 0.8, 1), hit("good", 0.5, 2)]
    result = demo("--data", tmp_path / "tile", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "0.990" in result.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "alike-tile-defective.png",
        "alike-tile-good.png",
        "heatmaps-tile.png",
        "results.json",
        "results.md",
    }
    told = json.loads((tmp_path / "out/results.json").read_text())
    assert told["synthetic"] is False
    assert told["average"]["image_auroc"] == 0.99
    assert told["average"]["aupro"] is None
    good, defective = told["categories"][0]["searches"]
    # The query test/crack/000.png is the first hit itself.
    assert (defective["query_left_out"], defective["same_class"], defective["judged"]) == (True, 1, 2)
    assert (good["query_left_out"], good["same_side"], good["judged"]) == (False, 1, 3)
    written = (tmp_path / "out/results.md").read_text()
    assert "| tile | 0.990 | - |" in written
    assert "![heatmaps-tile.png](heatmaps-tile.png)" in written
    assert "| tile | 0.990 | 0.990 | - | - | 140 |" in written
    train, embed, rival = fake.requests["CreateJob"]
    assert train.train.dataset == embed.embed.dataset == rival.train.dataset == "datasets/tile"
    assert train.train.WhichOneof("detector") == "patchcore"
    assert rival.train.efficientad.max_duration.ToSeconds() == 30
    assert "make demo DATA=path/to/images" in result.stdout


def test_short_demo_trains_efficientad_on_first_category(
    server: FakeStack, fake: FakeServer, tmp_path: Path
) -> None:
    for name in ("grid", "tile"):
        write_dataset_folder(tmp_path / "data" / name)
    assert demo("--data", tmp_path / "data", "--output", tmp_path / "out").exit_code == 0
    rivals = [job.train.dataset for job in fake.requests["CreateJob"] if job.train.HasField("efficientad")]
    assert rivals == ["datasets/grid"]
    figures = json.loads((tmp_path / "out/results.json").read_text())
    assert [bool(each["efficientad"]) for each in figures["categories"]] == [True, False]
    compared = (tmp_path / "out/results.md").read_text().partition("## Both detectors")[2]
    assert "| grid |" in compared.partition("## Search")[0]
    assert "| tile |" not in compared.partition("## Search")[0]


def test_full_demo_trains_efficientad_on_every_category(
    server: FakeStack, fake: FakeServer, tmp_path: Path
) -> None:
    for name in ("grid", "tile"):
        write_dataset_folder(tmp_path / "data" / name)
    assert demo("--data", tmp_path / "data", "--output", tmp_path / "out", "--full").exit_code == 0
    rivals = [job.train for job in fake.requests["CreateJob"] if job.train.HasField("efficientad")]
    assert [job.dataset for job in rivals] == ["datasets/grid", "datasets/tile"]
    assert rivals[0].efficientad.max_duration.ToSeconds() == 90


def test_efficientad_can_be_left_out(server: FakeStack, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path / "tile")
    result = demo("--data", tmp_path, "--output", tmp_path / "out", "--efficientad-minutes", 0)
    assert result.exit_code == 0
    assert "EfficientAD" not in result.stdout
    assert len(fake.requests["CreateJob"]) == 2


def test_a_category_without_defects(server: FakeStack, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path / "tile")
    (tmp_path / "tile/test/crack/000.png").unlink()
    assert demo("--data", tmp_path, "--output", tmp_path / "out").exit_code == 0
    assert not (tmp_path / "out/alike-tile-defective.png").exists()


def test_a_category_without_test_images(server: FakeStack, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path / "tile")
    (tmp_path / "tile/test/crack/000.png").unlink()
    (tmp_path / "tile/test/good/000.png").unlink()
    assert demo("--data", tmp_path, "--output", tmp_path / "out").exit_code == 0
    assert len(fake.requests["CreateJob"]) == 2  # one for each detector, no embedding
    assert not fake.requests["Search"]


def test_json_is_the_only_output_on_stdout(server: FakeStack, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path / "tile")
    result = demo("--data", tmp_path, "--output", tmp_path / "out", "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "out/results.json").read_text())


def test_synthetic_images_are_labelled_synthetic(
    server: FakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = "print('grid: 3 images, in /x')"
    monkeypatch.setattr(material, "_GENERATOR", (sys.executable, "-c", generator))
    monkeypatch.setattr("blemish_client.demo.run._scratch", lambda: nullcontext(tmp_path / "scratch"))
    write_dataset_folder(tmp_path / "scratch/surfaces/grid")
    result = demo("--categories", "grid", "--output", tmp_path / "out")
    assert "synthetic" in result.stdout
    assert "synthetic" in (tmp_path / "out/results.md").read_text()


def test_a_failed_job_ends_the_demo(server: FakeStack, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path / "tile")
    fake.watches = [[ended("jobs/made", JOB_STATE_FAILED)]]
    result = demo("--data", tmp_path, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "PatchCore tile: jobs/made failed: the worker ran out of memory" in result.stderr


def test_reason_for_a_dead_stack_is_shown(server: FakeStack, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path / "tile")
    fake.errors["ImportDataset"] = [CallError(grpc.StatusCode.UNAVAILABLE, detailed=False)]
    server.failure = Failure("the server ended with code 1", 1)
    result = demo("--data", tmp_path, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "the server ended with code 1" in result.stderr


def test_keep_refuses_a_folder_with_content(server: FakeStack, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path / "tile")
    result = demo("--data", tmp_path, "--keep", tmp_path)
    assert result.exit_code == 2
    assert "is not empty" in result.stderr


def test_sdk_imports_no_heavy_package() -> None:
    heavy = "numpy PIL rich typer torch blemish_core google.rpc"
    script = f"import sys, blemish_client; print([m for m in {heavy.split()} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
