# SPDX-License-Identifier: Apache-2.0

import os
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
from blemish_core.platform.threads import all_cores
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.choice import Asked, RuntimeChoice
from blemish_core.runtimes.openvino_import import openvino
from blemish_core.runtimes.openvino_runtime import ConversionCache, OpenVinoRuntime


@pytest.fixture(scope="module")
def runtime(exported: Path) -> OpenVinoRuntime:
    return OpenVinoRuntime(exported)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", range(1, 10))
def test_any_batch_size_gives_the_outputs_of_torch(
    detector: PatchCore, runtime: OpenVinoRuntime, count: int
) -> None:
    batch = images(count, seed=count)
    (ours,) = TorchRuntime(detector.network, torch.device("cpu"))(batch)
    (its,) = runtime(batch)
    scale = float(ours.abs().max())
    assert float((its - ours).abs().max()) < 1e-5 * scale


F32 = {"INFERENCE_PRECISION_HINT": "f32"}


class _Convolution(nn.Module):
    """A network that is exported at the first try."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, kernel_size=3)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.layer(images),)


class _Flat(_Convolution):
    """A network whose flattened output fixes the batch size in an export."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.layer(images).flatten(1),)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Spy on torch.export, with an empty cache of conversions."""
    openvino_runtime.CONVERSIONS.clear()
    spy = Mock(wraps=torch.export.export)
    monkeypatch.setattr(torch.export, "export", spy)
    return spy


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the models that OpenVINO compiles during a test."""
    models: list[Any] = []
    core = openvino().Core
    compile_model = core.compile_model

    def compiled(self: Any, *arguments: Any) -> Any:
        models.append(compile_model(self, *arguments))
        return models[-1]

    monkeypatch.setattr(core, "compile_model", compiled)
    return models


def _efficientad(monkeypatch: pytest.MonkeyPatch, *, autoencoder: bool) -> nn.Module:
    from blemish_core.detectors.common.anomalib_models import SmallPatchDescriptionNetwork

    narrow(monkeypatch, SmallPatchDescriptionNetwork)
    detector = TrainableEfficientAd(EfficientAdSettings(), autoencoder=autoencoder)
    detector.model.mean_std["std"].data.fill_(0.2)
    quantiles = {"qa_st": 0.5, "qb_st": 2.0, "qa_ae": 0.3, "qb_ae": 1.5}
    detector.measure_maps({name: torch.tensor(value) for name, value in quantiles.items()}, torch.ones(()))
    return detector.network


@pytest.mark.parametrize(
    ("network", "size", "tries"), [("efficientad", 256, 1), ("student alone", 256, 1), ("flat", 32, 2)]
)
def test_export_takes_any_batch_size_with_as_few_tries_as_possible(
    network: str, size: int, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exports: Mock
) -> None:
    torch.manual_seed(5)
    made: nn.Module = _Flat().eval()
    if network != "flat":
        made = _efficientad(monkeypatch, autoencoder=network == "efficientad")
    openvino_runtime.export(made, (size, size), tmp_path / "model.xml")
    assert exports.call_count == tries  # each takes seconds
    runtime = OpenVinoRuntime(tmp_path / "model.xml")
    for count in (1, 3):
        batch = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))
        ours = TorchRuntime(made, torch.device("cpu"))(batch)
        for own, its in zip(ours, runtime(batch), strict=True):
            assert float((its - own).abs().max()) < 1e-4 * float(own.abs().max())


def test_projection_is_added_without_a_second_conversion(
    detector: PatchCore, tmp_path: Path, exports: Mock
) -> None:
    plain = detector.network
    assert isinstance(plain, StagedNetwork)
    batch = images(3, seed=8)
    (features,) = TorchRuntime(plain, torch.device("cpu"))(batch)
    (its,) = OpenVinoRuntime.of(plain, (64, 64))(batch)
    assert float((its - features).abs().max()) < 1e-5 * float(features.abs().max())

    mapped, size = StagedNetwork(plain.shared), features.shape[1]
    random = torch.Generator().manual_seed(9)
    matrix = torch.randn(size, size, generator=random)
    mapped.project(matrix + matrix.T, torch.randn(size, generator=random))
    (expected,) = TorchRuntime(mapped, torch.device("cpu"))(batch)
    openvino_runtime.export(mapped, (64, 64), tmp_path / "model.xml")
    for runtime in (OpenVinoRuntime.of(mapped, (64, 64)), OpenVinoRuntime(tmp_path / "model.xml")):
        (its,) = runtime(batch)
        assert float((its - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert exports.call_count == 1


@pytest.mark.parametrize(
    ("device", "asked", "name"),
    [
        ("cpu", "auto", "openvino"),
        ("cpu", "openvino-int8", "openvino"),
        ("cpu", "torch", None),
        ("cuda:0", "auto", None),
    ],
)
def test_training_uses_openvino_on_a_cpu_unless_torch_is_configured(
    device: str, asked: Asked, name: str | None
) -> None:
    lent = export.faster_runtime(device, RuntimeChoice(asked), _Flat().eval(), (32, 32))
    assert (lent and lent.name) == name


def test_other_weights_or_sizes_are_converted_separately() -> None:
    openvino_runtime.CONVERSIONS.clear()
    network, batch = _Flat().eval(), images(2)
    made: list[tuple[OpenVinoRuntime, Tensor, Tensor]] = []
    for change, size in ((1.0, 64), (2.0, 64), (1.0, 32)):
        network.layer.weight.data *= change
        part = batch[..., :size, :size]
        (expected,) = TorchRuntime(network, torch.device("cpu"))(part)
        made.append((OpenVinoRuntime.of(network, (size, size)), part, expected))
    for runtime, part, expected in made:  # unchanged by later conversions
        torch.testing.assert_close(runtime(part)[0], expected)


@pytest.mark.parametrize(
    ("room", "sizes", "converted"),
    [
        (9, (64, 32, 64, 32), [64, 32]),
        # The least recently used is evicted.
        (2, (64, 32, 64, 48, 64, 32), [64, 32, 48, 32]),
        (0, (64, 64, 32, 64), [64, 32, 64]),
    ],
)
def test_cached_networks_are_not_converted_again(
    exports: Mock, room: int, sizes: Sequence[int], converted: list[int]
) -> None:
    """The cache has room for ``room`` networks."""
    network = _Convolution().eval()
    cache = ConversionCache(room * held_bytes(network))
    for size in sizes:
        batch = images(2)[..., :size, :size]
        (expected,) = TorchRuntime(network, torch.device("cpu"))(batch)
        compiled = openvino().Core().compile_model(cache.convert(network, (size, size)), "CPU", F32)
        torch.testing.assert_close(torch.from_numpy(compiled(batch.numpy())[0]), expected)
    assert [call.args[1][0].shape[-1] for call in exports.call_args_list] == converted


def test_output_outlives_the_next_call(runtime: OpenVinoRuntime) -> None:
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
sys.setswitchinterval(1e-4)  # makes a switch of threads during the first call likely
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


def test_first_calls_of_several_threads_do_not_deadlock(exported: Path) -> None:
    # In a new process, because the deadlock can occur only once in each.
    subprocess.run([sys.executable, "-c", _FIRST_AT_ONCE, str(exported)], check=True, timeout=60)


@pytest.mark.parametrize("lanes", [1, 2])
def test_concurrent_calls_get_their_own_outputs(
    exported: Path, lanes: int, compilations: list[Any]
) -> None:
    runtime = OpenVinoRuntime(exported, lanes=lanes)
    assert compilations[0].get_property("NUM_STREAMS") == lanes
    batches = [images(1 + number % 3, seed=number) for number in range(24)]
    alone = [runtime(batch)[0] for batch in batches]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda batch: runtime(batch)[0], batches))
    for expected, got in zip(alone, together, strict=True):
        assert got.equal(expected)


def test_call_on_all_cores_gives_the_outputs_of_a_lane(exported: Path, compilations: list[Any]) -> None:
    runtime = OpenVinoRuntime(exported, lanes=2)
    lanes, alone = compilations
    assert (lanes.get_property("NUM_STREAMS"), alone.get_property("NUM_STREAMS")) == (2, 1)
    assert alone.get_property("INFERENCE_NUM_THREADS") == os.cpu_count()
    assert alone.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    (shared,) = runtime(images(1))
    with all_cores():
        (own,) = runtime(images(1))
    torch.testing.assert_close(own, shared, rtol=1e-6, atol=1e-6 * float(shared.abs().max()))


@pytest.mark.parametrize(("lanes", "threads"), [(1, 0), (3, 1)])
def test_second_network_is_compiled_only_for_lanes_that_share_all_cores(
    exported: Path, compilations: list[Any], lanes: int, threads: int
) -> None:
    runtime = OpenVinoRuntime(exported, lanes=lanes, threads=threads)
    with all_cores():
        runtime(images(1))
    assert len(compilations) == 1


def test_precision_is_float32_on_every_processor(exported: Path, compilations: list[Any]) -> None:
    OpenVinoRuntime(exported)
    (compiled,) = compilations
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_weights_stay_float32(exported: Path) -> None:
    assert 'element_type="f16"' not in exported.read_text()


def copy(exported: Path, folder: Path) -> Path:
    shutil.copytree(exported.parent, folder, dirs_exist_ok=True)
    return folder / exported.name


def test_unknown_operation_is_rejected(exported: Path, tmp_path: Path) -> None:
    file = copy(exported, tmp_path)
    foreign = file.read_text().replace('type="Convolution"', 'type="Evil"', 1)
    assert "Evil" in foreign
    file.write_text(foreign)
    with pytest.raises(Corrupt, match="not a network that this version"):
        OpenVinoRuntime(file)


def test_truncated_weights_are_rejected(exported: Path, tmp_path: Path) -> None:
    file = copy(exported, tmp_path)
    file.with_suffix(".bin").write_bytes(b"short")
    with pytest.raises(Corrupt, match="not a network that this version"):
        OpenVinoRuntime(file)


def test_xml_entity_cannot_read_another_file(exported: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Convolution")
    file = copy(exported, tmp_path / "ir")
    text = file.read_text().replace('type="Convolution"', 'type="&other;"')
    head, _, rest = text.partition("?>")
    doctype = f'<!DOCTYPE net [<!ENTITY other SYSTEM "{secret.as_uri()}">]>'
    file.write_text(f"{head}?>{doctype}{rest}")
    with pytest.raises(Corrupt):
        OpenVinoRuntime(file)


# Runs in a new process, where nothing is imported yet.
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
    os.environ["CI"] = "true"  # disables telemetry for the import only
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
openvino_runtime.export(Tuple().eval(), (32, 32), Path(tempfile.mkdtemp()) / "model.xml")
if not {before!r}:
    assert not list(Path.home().iterdir()), list(Path.home().iterdir())
import time
time.sleep(0.5)
assert not calls, calls
print("silent")
"""


@pytest.mark.parametrize("before", [False, True], ids=["first", "imported before"])
def test_openvino_opens_no_connection(before: bool, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _WATCH.format(before=before)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.strip().endswith("silent"), done.stderr


def test_outputs_of_two_calls_share_no_memory(runtime: OpenVinoRuntime) -> None:
    (first,), (second,) = runtime(images(1)), runtime(images(1))
    assert not np.shares_memory(first.numpy(), second.numpy())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_network_that_does_not_fit_on_the_disk_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "model.bin").symlink_to("/dev/full")
    network = nn.Sequential(nn.Conv2d(3, 512, 16), nn.ReLU())

    with pytest.raises(OSError, match="No space left on device"):
        openvino_runtime.export(network, (64, 64), tmp_path / "model.xml")
