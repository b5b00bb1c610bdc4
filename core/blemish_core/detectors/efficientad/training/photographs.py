# SPDX-License-Identifier: Apache-2.0
"""Photographs of anything but the surface, for EfficientAD's penalty and the distillation of its teacher.

EfficientAD penalises a student that imitates its teacher on images of ImageNet (Batzner et al.,
arXiv:2303.14535, section 3.2). Without a folder of photographs, those in installed Python packages are
used, cropped and flipped at random.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from blemish_core.platform.errors import FailedPrecondition

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_SHORT_SIDE = 320  # px, to which photographs are reduced
_CACHED = 512  # photographs, about 200 MiB
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_INSTALLED = {
    "skimage": tuple(
        f"data/{name}"
        for name in (
            "astronaut.png",
            "camera.png",
            "chelsea.png",
            "clock_motion.png",
            "coffee.png",
            "coins.png",
            "color.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "moon.png",
            "motorcycle_left.png",
            "motorcycle_right.png",
            "retina.jpg",
            "rocket.jpg",
        )
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}


class Photographs:
    """Random crops of photographs."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._cache: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def view(self, size: int, random: np.random.Generator, *, grey_share: float) -> Tensor:
        """Return a random square of a photograph: RGB, float32 (3, size, size), 0 to 1."""
        image = self._image(int(random.integers(len(self._files))))
        shortest = min(image.shape[:2])
        side = int(random.integers(int(0.6 * shortest), shortest + 1))
        top, left = (int(random.integers(length - side + 1)) for length in image.shape[:2])
        cut = torch.from_numpy(image[top : top + side, left : left + side].copy())
        pixels = cut.permute(2, 0, 1)[None].float() / 255
        pixels = functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)[0]
        if random.random() < grey_share:
            pixels = (pixels * torch.tensor(_LUMA).view(3, 1, 1)).sum(0, keepdim=True).expand(3, -1, -1)
        return pixels.flip(2) if random.random() < 0.5 else pixels

    def _image(self, number: int) -> NDArray[np.uint8]:
        image = self._cache.get(number)
        if image is None:
            image = _read_reduced(self._files[number])
            if len(self._cache) < _CACHED:
                self._cache[number] = image
        return image


def below(*folders: Path) -> list[Path]:
    """Return the images below folders, sorted by path."""
    return sorted(
        file for folder in folders for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES
    )


def installed() -> list[Path]:
    """Return the photographs in installed packages."""
    found = []
    for package, names in _INSTALLED.items():
        spec = find_spec(package)
        for home in (spec.submodule_search_locations or ()) if spec else ():
            found += [file for name in names if (file := Path(home) / name).exists()]
    return found


def photographs(folder: Path | None, fetched: Path) -> tuple[Photographs, str]:
    """Return the photographs to train with, and a description of their source.

    Args:
        folder: configured folder, or None.
        fetched: folder of downloaded photographs, which need not exist.

    Raises:
        FailedPrecondition: if there are no photographs.
    """
    if folder is None and fetched.is_dir():
        folder = fetched
    if folder is not None:
        files, source = below(folder), f"{folder.name}/"
    else:
        files, source = installed(), "installed packages"
    if not files:
        raise FailedPrecondition(
            f"there are no photographs in {source}; set BLEMISH_PHOTOGRAPHS to a folder of them, or fetch "
            "Imagenette with `blemish weights fetch imagenette`"
        )
    return Photographs(files), f"{len(files)} photographs, {source}"


def _read_reduced(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        image.draft("RGB", (_SHORT_SIDE, _SHORT_SIDE))
        rgb = image.convert("RGB")
    scale = _SHORT_SIDE / min(rgb.size)
    if scale < 1:
        rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.LANCZOS)
    return np.asarray(rgb)
