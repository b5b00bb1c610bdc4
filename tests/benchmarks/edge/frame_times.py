# SPDX-License-Identifier: Apache-2.0
"""Times of one frame by the code of one commit, in a process of its own with the commit's sources.

    python frame_times.py prepare before|after FOLDER IMAGES BANK ...
    python frame_times.py time before|after FOLDER IMAGES THREADS

``prepare`` writes networks and tensors to FOLDER, with banks that are prefixes of one greedy coreset of the
images. ``time`` prints the times of all rows as JSON for each line that it reads. "before" is the commit of
which the modules of ``_Before`` are.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 256
FRAMES = 8
_EFFICIENTAD_FRAMES = 2
_CALIBRATED = 16
"""Images that INT8 and the units of distance are calibrated on."""
_EFFICIENTAD = "EfficientAD"
_NAMES = {"f32": "float32", "int8": "INT8"}

Parts = dict[str, float]
"""Mean milliseconds of a frame, its network and its search."""


def read_images(folder: Path) -> list[Any]:
    import cv2

    return [cv2.imread(str(file), cv2.IMREAD_COLOR_RGB) for file in sorted(folder.iterdir())]


def prepare_before(folder: Path, images: Sequence[Any], banks: Sequence[int]) -> None:
    import torch

    patchcore: Any = import_module("blemish_core.detectors.patchcore")
    runtimes: Any = import_module("blemish_core.runtimes.on_openvino")
    coreset: Any = import_module("blemish_core.detectors.coreset")
    detector = patchcore.PatchCore(patchcore.PatchCoreSettings(input_size=SIDE))
    detector.load_pretrained(Path("nowhere"))
    runtimes.export(detector.network, SIDE, folder / "f32.xml")
    on_torch = detector.runtime
    detector.run_on(runtimes.OpenVinoRuntime(folder / "f32.xml"))
    with torch.inference_mode():
        patches = torch.cat([detector.features([detector.prepare(each)])[0][0] for each in images])
    picks = coreset.greedy_coreset(patches, max(banks), 0)
    for bank in banks:
        detector.remember(patches[picks[:bank]].clone())
        detector.find_supports()
        _save(detector, folder / f"f32-{bank}")
    detector.run_on(on_torch)
    efficientad: Any = import_module("blemish_core.detectors.efficientad")
    other = _random_efficientad(efficientad.EfficientAd, efficientad.EfficientAdSettings)
    runtimes.export(other.network, SIDE, folder / "efficientad-f32.xml")
    _save(other, folder / "efficientad")


def prepare_after(folder: Path, images: Sequence[Any], banks: Sequence[int]) -> None:
    from functools import partial

    import torch

    from blemish_core.detectors.base import running_on, silent
    from blemish_core.detectors.efficientad.settings import EfficientAdSettings
    from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
    from blemish_core.detectors.patchcore.settings import PatchCoreSettings
    from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
    from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
    from blemish_core.runtimes import openvino_runtime, quantization
    from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime

    def quantize(detector: Any, name: str, *ignored: Sequence[str]) -> None:
        openvino_runtime.export(detector.network, (SIDE, SIDE), folder / f"{name}f32.xml")
        reads = [partial(detector.prepare, each) for each in images[:_CALIBRATED]]
        files = folder / f"{name}f32.xml", folder / f"{name}int8.xml"
        quantization.quantize(*files, reads, lambda done, total: silent("", done, total, ""), *ignored)

    detector = TrainablePatchCore(PatchCoreSettings(input_size=SIDE))
    detector.load_pretrained(Path("nowhere"))
    quantize(detector, "", quantization.FEATURE_MAPS)
    inputs = [detector.prepare(each) for each in images]
    for kind in _NAMES:
        with torch.inference_mode(), running_on(detector, OpenVinoRuntime(folder / f"{kind}.xml")):
            found = [detector.patches([each])[0] for each in inputs]
            patches = torch.cat([each.features for each in found])
            picks = greedy_coreset(patches, max(banks), 0)
            for bank in banks:
                detector.set_memory_bank(patches[picks[:bank]].clone())
                detector.find_supports()
                detector.set_units([detector.measure(each) for each in found[:_CALIBRATED]])
                _save(detector, folder / f"{kind}-{bank}")
    other = _random_efficientad(TrainableEfficientAd, EfficientAdSettings)
    quantize(other, "efficientad-")
    _save(other, folder / "efficientad")


def _random_efficientad(detector: Any, settings: Any) -> Any:
    """Return an EfficientAD with random weights, which cost the same as trained ones."""
    import torch

    torch.manual_seed(0)
    made = detector(settings(input_size=SIDE))
    made.model.mean_std["std"].data.fill_(1.0)
    ones = {"qa_st": 0.1, "qb_st": 1.0, "qa_ae": 0.1, "qb_ae": 1.0}
    made.measure_maps({name: torch.tensor(value) for name, value in ones.items()}, torch.tensor(1.0))
    return made


def _save(detector: Any, name: Path) -> None:
    from safetensors.torch import save_file

    save_file(detector.tensors(), f"{name}.safetensors")
    Path(f"{name}.json").write_text(json.dumps(dict(detector.settings)))


class _Row:
    """The parts of a frame of one detector."""

    def __init__(
        self,
        prepare: Callable[[Any], Any],
        predict: Callable[[list[Any]], object],
        network: Callable[[Any], Any],
        search: Callable[[Any], object] | None,
        inputs: list[Any],
    ) -> None:
        self._prepare, self._predict, self._network, self._search = prepare, predict, network, search
        self._inputs = inputs
        self._found = [network(each) for each in inputs]

    def parts(self, images: Sequence[Any]) -> Parts:
        if self._search is None:
            images = images[:_EFFICIENTAD_FRAMES]
        times = {
            "frame": _mean_ms(lambda image: self._predict([self._prepare(image)]), images),
            "network": _mean_ms(self._network, self._inputs[: len(images)]),
        }
        if self._search is not None:
            times["search"] = _mean_ms(self._search, self._found)
        return times


def _mean_ms(call: Callable[[Any], object], given: Sequence[Any]) -> float:
    began = time.perf_counter()
    for each in given:
        call(each)
    return 1000 * (time.perf_counter() - began) / len(given)


def rows_before(folder: Path, images: Sequence[Any], threads: int) -> Iterator[tuple[str, _Row]]:
    import torch
    from safetensors.torch import load_file

    patchcore: Any = import_module("blemish_core.detectors.patchcore")
    efficientad: Any = import_module("blemish_core.detectors.efficientad")
    runtimes: Any = import_module("blemish_core.runtimes.on_openvino")
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    for file in sorted(folder.glob("*.json")):
        tensors, settings = load_file(file.with_suffix(".safetensors")), json.loads(file.read_text())
        is_patchcore = "memory_bank" in tensors
        kind = patchcore.PatchCore if is_patchcore else efficientad.EfficientAd
        detector = kind.load(settings, tensors)
        network = folder / ("f32.xml" if is_patchcore else "efficientad-f32.xml")
        detector.run_on(runtimes.OpenVinoRuntime(network, threads=threads))
        search = None
        if is_patchcore:
            search = _searching(
                import_module("blemish_core.detectors.memory_bank").MemoryBank(
                    *(tensors[name] for name in ("memory_bank", "index_centroids", "supports"))
                ),
                settings["neighbors"],
                lambda maps: maps[0].flatten(1).T.contiguous(),
            )
        inputs = [detector.prepare(each) for each in images]
        runtime = detector.runtime
        yield (
            _label(file.stem, "f32"),
            _Row(detector.prepare, detector.inspect, _forward(runtime), search, inputs),
        )


def rows_after(folder: Path, images: Sequence[Any], threads: int) -> Iterator[tuple[str, _Row]]:
    from blemish_core.runtimes.openvino_network import OpenVinoNetwork
    from blemish_core.serving.detector import TensorFile
    from blemish_core.serving.efficientad import ServedEfficientAd
    from blemish_core.serving.memory_bank import ServedBank
    from blemish_core.serving.patchcore import ServedPatchCore

    for file in sorted(folder.glob("*.json")):
        tensors, settings = TensorFile(file.with_suffix(".safetensors")), json.loads(file.read_text())
        part, _, _ = file.stem.partition("-")
        for kind in _NAMES if part == "efficientad" else (part,):
            search = None
            if part == "efficientad":
                network = OpenVinoNetwork(folder / f"efficientad-{kind}.xml", threads=threads)
                detector: Any = ServedEfficientAd.load(settings, tensors, network)
            else:
                network = OpenVinoNetwork(folder / f"{kind}.xml", threads=threads)
                detector = ServedPatchCore.load(settings, tensors, network)
                bank = ServedBank(
                    tensors["memory_bank"], tensors.get("index_centroids"), tensors.get("supports")
                )
                search = _searching(
                    bank,
                    settings["neighbors"],
                    lambda maps: np.ascontiguousarray(maps[0].reshape(maps.shape[1], -1).T),
                )
            inputs = [detector.prepare(each) for each in images]
            yield (
                _label(file.stem, kind),
                _Row(detector.prepare, detector.predict, _forward(network.infer), search, inputs),
            )


def _forward(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda image: run(image[None])


def _searching(bank: Any, neighbors: int, patches: Callable[[Any], Any]) -> Callable[[Any], object]:
    """Return a function from the outputs of a network to the score of the image."""

    def search(outputs: Any) -> object:
        (maps,) = outputs
        features = patches(maps)
        nearest = bank.nearest(features, tuple(maps.shape[-2:]))
        return bank.image_score(features, nearest, neighbors)

    return search


def _label(stem: str, kind: str) -> str:
    part, _, bank = stem.partition("-")
    if part == "efficientad":
        return f"{_EFFICIENTAD}, {_NAMES[kind]}"
    return f"PatchCore, {int(bank):,} entries, {_NAMES[kind]}"


def main() -> None:
    action, commit, where, pictures, *others = sys.argv[1:]
    folder, images = Path(where), read_images(Path(pictures))
    if action == "prepare":
        prepare = {"before": prepare_before, "after": prepare_after}[commit]
        prepare(folder, images, [int(each) for each in others])
        return
    import cv2

    threads = int(others[0])
    cv2.setNumThreads(threads)
    shown = images[:FRAMES]
    rows = dict({"before": rows_before, "after": rows_after}[commit](folder, shown, threads))
    for row in rows.values():
        row.parts(shown)  # warm-up
    print(json.dumps({"threads": threads, "process": os.getpid()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({name: row.parts(shown) for name, row in rows.items()}), flush=True)


if __name__ == "__main__":
    main()
