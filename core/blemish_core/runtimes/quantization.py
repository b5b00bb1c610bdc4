# SPDX-License-Identifier: Apache-2.0
"""INT8 for OpenVINO by NNCF: post-training quantization, calibrated on training images.

Jacob et al., CVPR 2018, arXiv:1712.05877; NNCF: https://github.com/openvinotoolkit/nncf. Scores differ from
those of float32, so INT8 has its own calibration, and its loss is measured in AUROC.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import rich
import torch
from torch import Tensor

from blemish_core.runtimes.card import Quantization
from blemish_core.runtimes.openvino_import import nncf, openvino
from blemish_core.runtimes.openvino_runtime import save
from blemish_core.runtimes.parity import with_patch

MAX_IMAGES = 40
SOFTMAX_POOLING = ("MatMul",)
"""Operations of a pooling by a softmax: eight bits round its small weights to zero and save no time."""
FEATURE_MAPS = (*SOFTMAX_POOLING, "AvgPool", "Interpolate", "Concat")
"""Also the operations that join feature maps.

In INT8, OpenVINO's average pooling has large errors at the borders of an image.
"""

ReadInput = Callable[[], Tensor]
"""Prepares one image on demand; channels after the first three are not quantized on."""


def quantize(
    source: Path,
    target: Path,
    images: Sequence[ReadInput],
    progress: Callable[[int, int], None],
    in_float: Sequence[str] = SOFTMAX_POOLING,
) -> int:
    """Write the IR in ``source`` with INT8 weights and activations; return the number of images used.

    Args:
        source: IR in float32.
        target: XML file to write.
        images: good images, of which up to ``MAX_IMAGES`` calibrate the ranges of activations.
        progress: called with the numbers of images done and in total; it may raise to end the work.
        in_float: types of operations that stay in float32.
    """
    chosen = images[:: -(-len(images) // MAX_IMAGES)]
    progress(0, len(chosen))
    model = openvino().Core().read_model(source, source.with_suffix(".bin"))
    quantizer = nncf()
    dataset = quantizer.Dataset(CalibrationImages(chosen, progress))
    with _no_progress_bars():
        quantized = quantizer.quantize(
            model,
            dataset,
            subset_size=len(chosen),
            # Slower, but far more accurate for the scores of EfficientAD.
            fast_bias_correction=False,
            ignored_scope=quantizer.IgnoredScope(types=list(in_float), validate=False),
        )
    save(quantized, target)
    progress(len(chosen), len(chosen))
    return len(chosen)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Suppress NNCF's progress bars, which it draws on rich's global console."""
    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def refusal(measured: Quantization) -> str:
    """Return why INT8 with these figures is not published; empty if it is."""
    if measured.drop is None:
        return "without good and defective test images the cost of INT8 in AUROC is unknown; add both kinds"
    if measured.drop > measured.max_drop:
        images = f" of {measured.altered} altered good images" if measured.altered else ""
        return (
            f"INT8 reduces the image AUROC{images} from {measured.auroc_f32:.4f} to "
            f"{measured.auroc_int8:.4f}, by more than {measured.max_drop}"
        )
    return ""


class CalibrationImages:
    """The calibration images for NNCF, an iterable of batches of one.

    Each image has a patch of noise, because ranges from good images alone would clip the activations of
    defects.
    """

    def __init__(self, images: Sequence[ReadInput], progress: Callable[[int, int], None]) -> None:
        self._images = images
        self._progress = progress
        self._reported = 0

    def __iter__(self) -> Iterator[object]:
        for done, read in enumerate(self._images):
            self._reported = max(self._reported, done)  # NNCF iterates more than once
            self._progress(self._reported, len(self._images))
            yield with_patch(read()[:3], torch.Generator().manual_seed(done))[None].numpy()
