# SPDX-License-Identifier: Apache-2.0
"""INT8 for OpenVINO by NNCF: post-training quantization, calibrated on training images.

Jacob et al., CVPR 2018, arXiv:1712.05877; NNCF: https://github.com/openvinotoolkit/nncf. The scores are
others than those of float32, so verdicts need held-out images of their own, and AUROC says what it costs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import rich
import torch
from torch import Tensor

from blemish_core.runtimes.card import Quantization
from blemish_core.runtimes.openvino_import import nncf, openvino
from blemish_core.runtimes.parity import with_patch

MAX_DROP = 0.005
"""Of image AUROC; INT8 that loses more is not published."""
MAX_IMAGES = 40

ReadInput = Callable[[], Tensor]
"""Prepares one image (3, S, S) when it is its turn."""


def quantize(
    source: Path, target: Path, images: Sequence[ReadInput], progress: Callable[[int, int], None]
) -> int:
    """Write the IR in ``source`` anew with INT8 weights and activations; return how many images were used.

    Args:
        source: IR in float32.
        target: the XML to write.
        images: good images, of which ``MAX_IMAGES``, evenly spread, give the ranges of the activations.
        progress: hears how many images are done of how many, and may raise to end it.
    """
    chosen = images[:: -(-len(images) // MAX_IMAGES)]
    progress(0, len(chosen))
    model = openvino().Core().read_model(source, source.with_suffix(".bin"))
    quantizer = nncf()
    dataset = quantizer.Dataset(_Calibration(chosen, progress))
    with _no_bars():
        quantized = quantizer.quantize(
            model,
            dataset,
            subset_size=len(chosen),
            # Slower than fast, and halved the error of EfficientAD's scores.
            fast_bias_correction=False,
            # Pooling by a softmax: eight bits make its small weights nothing, for no time saved.
            ignored_scope=quantizer.IgnoredScope(types=["MatMul"], validate=False),
        )
    openvino().save_model(quantized, target, compress_to_fp16=False)
    progress(len(chosen), len(chosen))
    return len(chosen)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep NNCF's progress bars out of the log; it draws them on rich's console for the whole process."""
    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def refusal(measured: Quantization) -> str:
    """Why INT8 with these figures is not published; empty if it is."""
    if measured.drop is None:
        return "no test images of both kinds tell what INT8 costs in AUROC; bring good and defective ones"
    if measured.drop > measured.max_drop:
        return (
            f"INT8 brings the image AUROC from {measured.auroc_f32:.4f} to {measured.auroc_int8:.4f}, and "
            f"{measured.max_drop} is the most that may be lost"
        )
    return ""


class _Calibration:
    """Images as NNCF wants them: to be gone through more than once, each a batch of one.

    Each has a patch of noise in it: ranges of good images alone cut off what a defect makes of activations,
    and gave strong ones a tenth of their score.
    """

    def __init__(self, images: Sequence[ReadInput], progress: Callable[[int, int], None]) -> None:
        self._images = images
        self._progress = progress
        self._most = 0

    def __iter__(self) -> Iterator[object]:
        for done, read in enumerate(self._images):
            self._most = max(self._most, done)  # a second pass does not count down
            self._progress(self._most, len(self._images))
            yield with_patch(read(), torch.Generator().manual_seed(done))[None].numpy()
