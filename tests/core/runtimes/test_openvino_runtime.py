# SPDX-License-Identifier: Apache-2.0

import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tests.support.narrow import narrow
from torch import Tensor, nn

from blemish_core.detectors.base import held_bytes
from blemish_core.detectors.common.staged_network import StagedNetwork
from blemish_core.detectors.common.torch_runtime import TorchRuntime
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.detectors.patchcore.detector import PatchCore
from blemish_core.jobs.handlers import export
from blemish_core.platform.errors import Corrupt
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.choice import Asked, RuntimeChoice
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime


@pytest.fixture(scope="module")
def runtime(exported: Path) -> OpenVinoRuntime:
    return OpenVinoRuntime(exported)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", range(1, 10))
def test_any_batch_gets_what_torch_gives(detector: PatchCore, runtime: OpenVinoRuntime, count: int) -> None:
    batch = images(count, seed=count)
    (ours,) = TorchRuntime(detector.network, torch.device("cpu"))(batch)
    (its,) = runtime(batch)
    scale = float(ours.abs().max())
    assert float((its - ours).abs().max()) < 1e-5 * scale


class _Flat(nn.Module):
    """Its answer is flattened, by which the size of a batch gets into an exported graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, kernel_size=3)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.layer(images).flatten(1),)


def _efficientad(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    from blemish_core.detectors.common.anomalib_models import SmallPatchDescriptionNetwork

    narrow(monkeypatch, SmallPatchDescriptionNetwork)
    detector = TrainableEfficientAd(EfficientAdSettings())
    detector.model.mean_std["std"].data.fill_(0.2)
    quantiles = {"qa_st": 0.5, "qb_st": 2.0, "qa_ae": 0.3, "qb_ae": 1.5}
    detector.measure_maps({name: torch.tensor(value) for name, value in quantiles.items()}, torch.ones(()))
    return detector.network


@pytest.mark.parametrize(
    ("network", "size", "tries"), [("efficientad", 256, 1), ("flat", 32, 2)], ids=["efficientad", "flat"]
)
def test_a_network_is_exported_for_any_batch_in_as_few_tries_as_it_takes(
    network: str, size: int, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino_runtime.forget()
    torch.manual_seed(5)
    made = _Flat().eval() if network == "flat" else _efficientad(monkeypatch)
    spy = Mock(wraps=torch.export.export)
    monkeypatch.setattr(torch.export, "export", spy)
    openvino_runtime.export(made, size, tmp_path / "model.xml")
    assert spy.call_count == tries  # each takes seconds
    runtime = OpenVinoRuntime(tmp_path / "model.xml")
    for count in (1, 3):
        batch = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))
        ours = TorchRuntime(made, torch.device("cpu"))(batch)
        for own, its in zip(ours, runtime(batch), strict=True):
            assert float((its - own).abs().max()) < 1e-4 * float(own.abs().max())


def test_what_a_surface_adds_is_put_in_without_a_second_conversion(
    detector: PatchCore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino_runtime.forget()
    spy = Mock(wraps=torch.export.export)
    monkeypatch.setattr(torch.export, "export", spy)
    plain = detector.network
    assert isinstance(plain, StagedNetwork)
    batch = images(3, seed=8)
    (features,) = TorchRuntime(plain, torch.device("cpu"))(batch)
    (its,) = OpenVinoRuntime.of(plain, 64)(batch)
    assert float((its - features).abs().max()) < 1e-5 * float(features.abs().max())

    mapped, size = StagedNetwork(plain.shared), features.shape[1]
    random = torch.Generator().manual_seed(9)
    matrix = torch.randn(size, size, generator=random)
    mapped.project(matrix + matrix.T, torch.randn(size, generator=random))
    (expected,) = TorchRuntime(mapped, torch.device("cpu"))(batch)
    openvino_runtime.export(mapped, 64, tmp_path / "model.xml")
    for runtime in (OpenVinoRuntime.of(mapped, 64), OpenVinoRuntime(tmp_path / "model.xml")):
        (its,) = runtime(batch)
        assert float((its - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert spy.call_count == 1


@pytest.mark.parametrize(
    ("device", "asked", "name"),
    [
        ("cpu", "auto", "openvino"),
        ("cpu", "openvino-int8", "openvino"),
        ("cpu", "torch", None),
        ("cuda:0", "auto", None),
    ],
)
def test_a_training_is_lent_openvino_on_a_cpu_unless_torch_is_asked_for(
    device: str, asked: Asked, name: str | None
) -> None:
    lent = export.faster_runtime(device, RuntimeChoice(asked), _Flat().eval(), 32)
    assert (lent and lent.name) == name


def test_other_weights_or_another_size_are_converted_anew() -> None:
    openvino_runtime.forget()
    network, batch = _Flat().eval(), images(2)
    made: list[tuple[OpenVinoRuntime, Tensor, Tensor]] = []
    for change, size in ((1.0, 64), (2.0, 64), (1.0, 32)):
        network.layer.weight.data *= change
        part = batch[..., :size, :size]
        (expected,) = TorchRuntime(network, torch.device("cpu"))(part)
        made.append((OpenVinoRuntime.of(network, size), part, expected))
    for runtime, part, expected in made:  # as they were when they were made
        torch.testing.assert_close(runtime(part)[0], expected)


@pytest.mark.parametrize(
    ("room", "sizes", "converted"),
    [
        (9, (64, 32, 64, 32), [64, 32]),
        # The least recently used goes.
        (2, (64, 32, 64, 48, 64, 32), [64, 32, 48, 32]),
        (0, (64, 64, 32, 64), [64, 32, 64]),
    ],
)
def test_networks_that_are_trained_in_turn_are_converted_once(
    monkeypatch: pytest.MonkeyPatch, room: int, sizes: Sequence[int], converted: list[int]
) -> None:
    """``room`` is for so many of them."""
    openvino_runtime.forget()
    asked: list[int] = []
    convert = openvino_runtime._converted

    def counted(network: nn.Module, input_size: int) -> Any:
        asked.append(input_size)
        return convert(network, input_size)

    network = _Flat().eval()
    monkeypatch.setattr(openvino_runtime, "_converted", counted)
    monkeypatch.setattr(openvino_runtime, "_KEPT_BYTES", room * held_bytes(network))
    for size in sizes:
        batch = images(2)[..., :size, :size]
        (expected,) = TorchRuntime(network, torch.device("cpu"))(batch)
        torch.testing.assert_close(OpenVinoRuntime.of(network, size)(batch)[0], expected)
    assert asked == converted


def test_an_answer_outlives_the_next_call(runtime: OpenVinoRuntime) -> None:
    (first,) = runtime(images(2, seed=1))
    kept = first.clone()
    runtime(images(2, seed=2))
    assert first.equal(kept)


_FIRST_AT_ONCE = """
import sys, threading
from pathlib import Path
import torch
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime

runtime = OpenVinoRuntime(Path(sys.argv[1]), lanes=2)
sys.setswitchinterval(1e-4)  # so that a second thread comes in between nearly every time
together = threading.Barrier(8)

def first() -> None:
    images = torch.zeros(1, 3, 64, 64)
    together.wait()
    runtime(images)

threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_that_are_first_at_once_do_not_lock_each_other_out(exported: Path) -> None:
    # A process of its own: it can happen once in each.
    subprocess.run([sys.executable, "-c", _FIRST_AT_ONCE, str(exported)], check=True, timeout=60)


@pytest.mark.parametrize("lanes", [1, 2])
def test_threads_at_once_get_their_own_answers(exported: Path, lanes: int) -> None:
    runtime = OpenVinoRuntime(exported, lanes=lanes)
    assert runtime._compiled.get_property("NUM_STREAMS") == lanes
    batches = [images(1 + number % 3, seed=number) for number in range(24)]
    alone = [runtime(batch)[0] for batch in batches]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda batch: runtime(batch)[0], batches))
    for expected, got in zip(alone, together, strict=True):
        assert got.equal(expected)


def test_the_precision_is_float32_whatever_the_processor_prefers(runtime: OpenVinoRuntime) -> None:
    compiled = runtime._compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_weights_are_not_halved(exported: Path) -> None:
    assert 'element_type="f16"' not in exported.read_text()


def copy(exported: Path, folder: Path) -> Path:
    shutil.copytree(exported.parent, folder, dirs_exist_ok=True)
    return folder / exported.name


def test_an_unknown_operation_is_refused_not_looked_for(exported: Path, tmp_path: Path) -> None:
    file = copy(exported, tmp_path)
    foreign = file.read_text().replace('type="Convolution"', 'type="Evil"', 1)
    assert "Evil" in foreign
    file.write_text(foreign)
    with pytest.raises(Corrupt, match="no network that this OpenVINO reads"):
        OpenVinoRuntime(file)


def test_weights_outside_the_file_are_refused(exported: Path, tmp_path: Path) -> None:
    file = copy(exported, tmp_path)
    file.with_suffix(".bin").write_bytes(b"short")
    with pytest.raises(Corrupt, match="no network that this OpenVINO reads"):
        OpenVinoRuntime(file)


def test_an_entity_of_the_graph_reads_no_other_file(exported: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Convolution")
    file = copy(exported, tmp_path / "ir")
    text = file.read_text().replace('type="Convolution"', 'type="&other;"')
    head, _, rest = text.partition("?>")
    doctype = f'<!DOCTYPE net [<!ENTITY other SYSTEM "{secret.as_uri()}">]>'
    file.write_text(f"{head}?>{doctype}{rest}")
    with pytest.raises(Corrupt):
        OpenVinoRuntime(file)


# In a process of its own: what this one has imported would hide what an import does.
_WATCH = """
import socket, subprocess, sys, tempfile, multiprocessing
from pathlib import Path
calls = []
def caught(*args, **kwargs):
    calls.append(args)
    raise OSError("no network")
socket.getaddrinfo = socket.socket.connect = caught
import multiprocessing.process
multiprocessing.process.BaseProcess.start = caught
if {before!r}:
    import os
    os.environ["CI"] = "true"  # what asks for no telemetry, only until the import is done
    import openvino
    del os.environ["CI"]
import torch
from blemish_core.runtimes import openvino_runtime, openvino_import
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
class Tuple(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net
    def forward(self, images):
        return (self.net(images),)
openvino_runtime.export(Tuple().eval(), 32, Path(tempfile.mkdtemp()) / "model.xml")
if not {before!r}:
    assert not list(Path.home().iterdir()), list(Path.home().iterdir())
import time
time.sleep(0.5)
assert not calls, calls
print("silent")
"""


@pytest.mark.parametrize("before", [False, True], ids=["first", "after somebody else"])
def test_openvino_calls_nobody(before: bool, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _WATCH.format(before=before)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.strip().endswith("silent"), done.stderr


def test_outputs_are_of_the_callers_own_memory(runtime: OpenVinoRuntime) -> None:
    (first,), (second,) = runtime(images(1)), runtime(images(1))
    assert not np.shares_memory(first.numpy(), second.numpy())
