# SPDX-License-Identifier: Apache-2.0
"""Time one frame on each runtime and on anomalib's inferencers, with equal weights.

    python -m tests.benchmarks.bench_runtimes [--rounds 9] [--banks 2800 28000] [--no-int8]

A frame is a decoded RGB image of 256 px. The time is from there to score and anomaly map, one frame at a
time, in interleaved rounds. EfficientAD has random weights, which cost the same as trained ones.

The export of anomalib itself needs onnxscript, which is not installed, and fixes a batch of 2 with torch
2.14. Its model, with its own pre- and post-processing, is therefore exported to IR with a batch of 1. Its
OpenVINOInferencer runs it twice: with its defaults, which is bf16 on CPUs that have it, and in float32.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tests.benchmarks.report import parser, section
from tests.support.patches import patch_features
from torch import Tensor, nn

from blemish_core.detectors.base import Detector, Image
from blemish_core.detectors.common.backbone import Backbone
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.runtimes import openvino_runtime, quantization
from blemish_core.runtimes.openvino_import import openvino
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime

SIZE = 256
Frame = Callable[[Image], object]
OURS = ("torch", "openvino", "openvino-int8")
COLUMNS = (*OURS, "anomalib torch", "anomalib OpenVINO", "anomalib OpenVINO f32")


class Answers(nn.Module):
    """The stages of anomalib's module, with a plain tuple as output."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.parts = nn.Sequential(module.pre_processor, module.model, module.post_processor)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for value in self.parts(images) if value is not None)


def ours(detector: Detector, folder: Path, *, int8: bool) -> dict[str, Frame]:
    """Return a function for each of blemish's runtimes."""
    file = folder / "model.xml"
    openvino_runtime.export(detector.network, (SIZE, SIZE), file)
    runtimes: dict[str, Any] = {"torch": detector.runtime, "openvino": OpenVinoRuntime(file)}
    if int8:
        inputs = [partial(detector.prepare, random_image(seed)) for seed in range(8)]
        quantization.quantize(file, folder / "int8.xml", inputs, lambda done, total: None)
        runtimes["openvino-int8"] = OpenVinoRuntime(folder / "int8.xml")

    def frame(runtime: Any, image: Image) -> object:
        detector.run_on(runtime)
        return detector.predict([detector.prepare(image)])

    return {name: partial(frame, runtime) for name, runtime in runtimes.items()}


def anomalibs(module: nn.Module, folder: Path, side: int = SIZE) -> dict[str, Frame]:
    """Return a function for each of anomalib's inferencers, for square inputs of ``side`` px."""
    from anomalib.deploy import OpenVINOInferencer, TorchInferencer

    module.eval()
    torch.save({"model": module}, folder / "model.pt")
    os.environ["TRUST_REMOTE_CODE"] = "1"  # the file was written a moment ago
    on_torch = TorchInferencer(folder / "model.pt", device="cpu")
    whole, example, ov = Answers(module), torch.rand(1, 3, side, side), openvino()
    with torch.no_grad():
        answers = whole.parts(example)._asdict()
        model = ov.convert_model(torch.export.export(whole, (example,)))
    names = [name for name, value in answers.items() if value is not None]
    for output, name in zip(model.outputs, names, strict=True):
        output.tensor.set_names({name})
    ov.save_model(model, folder / "theirs.xml", compress_to_fp16=False)
    with contextlib.chdir(folder):  # receives the cache of compiled networks
        by_default = OpenVINOInferencer(folder / "theirs.xml")
        in_f32 = OpenVINOInferencer(folder / "theirs.xml", config={"INFERENCE_PRECISION_HINT": "f32"})

    def by_torch(image: Image) -> object:
        with torch.inference_mode():
            return on_torch.predict(image)

    return {
        "anomalib torch": by_torch,
        "anomalib OpenVINO": by_default.predict,
        "anomalib OpenVINO f32": in_f32.predict,
    }


def random_image(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def patchcores(bank_size: int, folder: Path) -> dict[str, Frame]:
    from anomalib.models import Patchcore

    settings = PatchCoreSettings(input_size=SIZE)
    detector = TrainablePatchCore(settings)
    detector.load_pretrained(Path("nowhere"))
    backbone = Backbone.named(settings.backbone)
    with torch.inference_mode():
        parts = [
            patch_features(detector, [detector.prepare(random_image(1000 + seed))])[0][0]
            for seed in range(-(-bank_size // 1024))
        ]
    bank = torch.cat(parts)[:bank_size].clone()
    detector.set_memory_bank(bank)
    module = Patchcore(
        backbone=backbone.timm_name,
        layers=list(backbone.layers),
        pre_trained=False,
        num_neighbors=settings.neighbors,
        visualizer=False,
        evaluator=False,
    )
    extractor = detector.network.get_submodule("shared.extractor")
    module.model.feature_extractor.load_state_dict(extractor.state_dict())
    module.model.memory_bank = of_two_stages(bank, module)
    return ours(detector, folder, int8=False) | anomalibs(module, folder)


def of_two_stages(bank: Tensor, module: Any) -> Tensor:
    """Return the dimensions of three-stage entries (M, D) that anomalib's PatchCore has: the last ones."""
    return bank[:, -sum(module.model.feature_extractor.out_dims) :].clone()


def efficientads(folder: Path, *, int8: bool) -> dict[str, Frame]:
    from anomalib.models import EfficientAd as Theirs

    torch.manual_seed(0)
    detector = TrainableEfficientAd(EfficientAdSettings(input_size=SIZE))
    detector.model.mean_std["std"].data.fill_(1.0)
    ones = {"qa_st": 0.1, "qb_st": 1.0, "qa_ae": 0.1, "qb_ae": 1.0}
    detector.measure_maps({name: torch.tensor(value) for name, value in ones.items()}, torch.tensor(1.0))
    module = Theirs(visualizer=False, evaluator=False)
    module.model.load_state_dict(detector.model.state_dict())
    return ours(detector, folder, int8=int8) | anomalibs(module, folder)


def timed(frames: Mapping[str, Frame], rounds: int) -> dict[str, float]:
    """Return the median duration of one frame in milliseconds, by name."""
    image = random_image(1)
    times: dict[str, list[float]] = {name: [] for name in frames}
    for number in range(rounds + 1):
        for name, frame in frames.items():
            began = time.perf_counter()
            frame(image)
            if number:  # the first is warm-up
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: median(taken) for name, taken in times.items()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument(
        "--banks", type=int, nargs="*", default=[2_800, 28_000], help="entries of PatchCore"
    )
    options.add_argument("--no-int8", action="store_true")
    arguments = options.parse_args()
    rows: dict[str, Callable[[Path], dict[str, Frame]]] = {
        f"PatchCore, bank of {bank:,}": partial(patchcores, bank) for bank in arguments.banks
    }
    rows["EfficientAD-S"] = partial(efficientads, int8=not arguments.no_int8)
    with section("bench_runtimes", "Runtimes", arguments) as report:
        report.write(
            f"Milliseconds per frame, medians of {arguments.rounds} rounds, {torch.get_num_threads()} "
            "threads. In brackets: speed relative to anomalib OpenVINO f32.\n"
        )
        report.write(f"| | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
        for title, build in rows.items():
            # anomalib leaves a cache in the working folder.
            with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
                taken = timed(build(Path(scratch)), arguments.rounds)
            against = taken["anomalib OpenVINO f32"]
            cells = [f"{taken[n]:.1f} ({against / taken[n]:.1f}x)" if n in taken else "" for n in COLUMNS]
            report.write(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
