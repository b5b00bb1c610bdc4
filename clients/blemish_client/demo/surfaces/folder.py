# SPDX-License-Identifier: Apache-2.0
"""A data set of synthetic images on disk, in the layout of MVTec AD.

Layout after Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised
Anomaly Detection", CVPR 2019. No image of it is used.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from blemish_client.demo.surfaces.specimen import CLASSES, Origin, draw, surface_named

_README = """\
Synthetic images of {category}, made by blemish (blemish_client.demo.surfaces).

No camera took them: texture, light, noise and defects are computed. A score reached here says
little about a real production line, and nothing about MVTec AD, whose layout the folders follow.

category {category}, seed {seed}, {size} x {size} px
train/good {train}, test/good {good}, defective {defective} ({classes})
"""


def generate(
    folder: Path,
    category: str,
    *,
    seed: int = 0,
    train: int = 80,
    good: int = 20,
    defective: int = 32,
    size: int = 256,
    pool: Executor | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> None:
    """Write a data set of synthetic images: train/good, test/<class>, ground_truth/<class>.

    An image depends on the seed, the category, its class, its number and its size alone, so a
    larger data set holds the smaller one. ``README.txt`` is written last and marks the end.

    Args:
        folder: is made; must be empty if it exists.
        category: one of CATEGORIES.
        seed: 0 or more.
        train: how many good images to learn from.
        good: how many good images to test with.
        defective: how many defective images, spread evenly over the classes.
        size: sides of an image in pixels, 32 or more.
        pool: processes that draw; this process draws if None.
        on_image: called after each image with how many are written, and of how many.

    Raises:
        ValueError: if the category is unknown or a number is out of range.
        FileExistsError: if the folder holds anything, because old images would mix with new.
    """
    surface_named(category)
    for name, number, least in (
        ("seed", seed, 0),
        ("train", train, 0),
        ("good", good, 0),
        ("defective", defective, 0),
        ("size", size, 32),
    ):
        if number < least:
            raise ValueError(f"{name} is {number}; give {least} or more")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder or empty this one")

    origins = list(_origins(category, seed, train, good, defective, size))
    write = partial(_write, folder)
    written = map(write, origins) if pool is None else pool.map(write, origins, chunksize=4)
    for done, _ in enumerate(written, start=1):
        if on_image is not None:
            on_image(done, len(origins))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_text(
        _README.format(
            category=category,
            seed=seed,
            size=size,
            train=train,
            good=good,
            defective=defective,
            classes=", ".join(CLASSES[category]),
        ),
        encoding="utf-8",
    )


def _origins(
    category: str, seed: int, train: int, good: int, defective: int, size: int
) -> Iterator[Origin]:
    classes = CLASSES[category]
    share, rest = divmod(defective, len(classes))
    counts = [("train", "good", train), ("test", "good", good)]
    counts += [("test", kind, share + (i < rest)) for i, kind in enumerate(classes)]
    for split, kind, count in counts:
        for index in range(count):
            yield Origin(category, split, kind, index, seed, size)


def _write(folder: Path, origin: Origin) -> None:
    specimen = draw(origin)
    image = folder / origin.split / origin.kind / f"{origin.index:03d}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(specimen.image).save(image, compress_level=3)
    if origin.kind != "good":
        mask = folder / "ground_truth" / origin.kind / f"{origin.index:03d}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(specimen.mask.astype(np.uint8) * np.uint8(255)).save(mask)
