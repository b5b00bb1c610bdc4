# SPDX-License-Identifier: Apache-2.0
"""Recognition of copies and near copies among good images."""

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.ndimage import gaussian_filter

from blemish_core.detectors.base import Image, ReadImage, silent
from blemish_core.detectors.common.copies import describe_copies, find_copies

SIZE = 160
MARGIN = 8


def grain(seed: int, rows: int = SIZE, columns: int = SIZE) -> Image:
    """Return a surface with a texture of its own, (rows, columns, 3)."""
    noise = np.random.default_rng(seed).normal(size=(rows, columns))
    texture = 12 * noise + 160 * gaussian_filter(noise, 3)
    return grey(128 + texture)


def weave(seed: int) -> Image:
    """Return a fabric whose threads lie alike in every image, (SIZE, SIZE, 3)."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    phase = np.random.default_rng(seed).uniform(0, 8, 2)
    threads = 40 * np.sin((rows + phase[0]) * np.pi / 4) * np.sin((columns + phase[1]) * np.pi / 4)
    return grey(128 + threads + np.random.default_rng(seed + 1000).normal(0, 12, (SIZE, SIZE)))


def part(seed: int) -> Image:
    """Return a part that lies at the same place in every image, (SIZE, SIZE, 3)."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    shape = 90.0 * (np.hypot(rows, columns) < 60) + 60 * (np.abs(rows - columns // 2) < 8)
    return grey(60 + shape + np.random.default_rng(seed).normal(0, 6, (SIZE, SIZE)))


def grey(values: NDArray[np.float64]) -> Image:
    """Return the RGB image of grey ``values`` (rows, columns)."""
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def reads(images: Sequence[Image]) -> list[ReadImage]:
    return [partial(images.__getitem__, number) for number in range(len(images))]


def encoded_again(image: Image) -> Image:
    file = BytesIO()
    PillowImage.fromarray(image).save(file, "JPEG", quality=50)
    return np.array(PillowImage.open(file))


def taken_again(image: Image) -> Image:
    """Return the image with other noise of the camera."""
    return np.clip(image + np.random.default_rng(5).normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def darker(image: Image) -> Image:
    return (image * 0.6).astype(np.uint8)


def half_size(image: Image) -> Image:
    return np.array(PillowImage.fromarray(image).reduce(2))


@pytest.mark.parametrize("surface", [grain, weave, part])
def test_images_of_different_pieces_are_no_copies(surface: Callable[[int], Image]) -> None:
    assert find_copies(reads([surface(seed) for seed in range(30)]), silent) == ()


@pytest.mark.parametrize("again", [encoded_again, taken_again, darker])
@pytest.mark.parametrize("surface", [grain, weave])
def test_another_image_of_a_piece_is_a_near_copy(
    surface: Callable[[int], Image], again: Callable[[Image], Image]
) -> None:
    images = [surface(seed) for seed in range(12)]
    assert find_copies(reads([*images, again(images[3]), again(images[7])]), silent) == ((3, 12), (7, 13))


def test_shifted_frames_are_near_copies() -> None:
    wide = [grain(seed, SIZE + MARGIN, SIZE + MARGIN) for seed in range(12)]
    images = [each[:SIZE, :SIZE] for each in wide]
    shifted = [wide[2][MARGIN:, MARGIN // 2 : SIZE + MARGIN // 2], wide[2][3 : SIZE + 3, 5 : SIZE + 5]]
    assert find_copies(reads([*images, *shifted]), silent) == ((2, 12, 13),)


def test_bursts_of_few_pieces_are_one_group_for_each_piece() -> None:
    random = np.random.default_rng(1)
    pieces = [grain(seed) for seed in range(3)]
    images = [
        np.clip(pieces[number % 3] + random.normal(0, 3, pieces[0].shape), 0, 255).astype(np.uint8)
        for number in range(15)
    ]
    expected = tuple(tuple(range(first, 15, 3)) for first in range(3))
    assert find_copies(reads(images), silent) == expected


def test_equal_pixels_are_copies_even_of_a_blank_surface() -> None:
    blank = np.full((40, 60, 3), 90, np.uint8)
    images = [blank, blank + 1, blank, blank + 2, blank.reshape(60, 40, 3)]
    assert find_copies(reads(images), silent) == ((0, 2),)


def test_copies_are_found_among_few_images() -> None:
    images = [grain(seed) for seed in range(3)]
    assert find_copies(reads([*images, encoded_again(images[1])]), silent) == ((1, 3),)
    assert find_copies(reads(images[:1]), silent) == ()
    assert find_copies([], silent) == ()


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (1, 1), (24, 1600)])
def test_images_of_odd_shapes_are_compared(shape: tuple[int, int]) -> None:
    images = [grain(seed, *shape) for seed in range(9)]
    images += [grain(20 + seed) for seed in range(9)]
    copies = find_copies(reads([*images, images[10], encoded_again(images[12])]), silent)
    assert (10, 18) in copies
    assert (12, 19) in copies


def test_images_of_different_sizes_are_compared() -> None:
    images = [grain(seed, SIZE + 10 * seed, SIZE) for seed in range(12)]
    again = taken_again(images[4])[:-4, 3:]
    assert find_copies(reads([*images, again]), silent) == ((4, 12),)


def test_every_image_is_read_once_and_counted() -> None:
    counted: list[tuple[int, int]] = []
    read: list[int] = []

    def reading(seed: int) -> Image:
        read.append(seed)
        return grain(seed)

    def progress(phase: str, done: int, total: int, unit: str) -> None:
        assert (phase, unit) == ("copies", "images")
        counted.append((done, total))

    find_copies([partial(reading, seed) for seed in range(10)], progress)
    assert read == list(range(10))
    assert counted[0] == (0, 10)
    assert counted[-1] == (10, 10)


def test_description_counts_copies_and_names_some() -> None:
    names = [f"{number}.png" for number in range(30)]
    assert describe_copies([[0, 4, 7], [2, 3]], names) == (
        "5 of 30 good images show 2 pieces, which count once: 0.png, 4.png; 2.png, 3.png"
    )
    assert describe_copies([[number, number + 7] for number in range(7)], names) == (
        "14 of 30 good images show 7 pieces, which count once: "
        "0.png, 7.png; 1.png, 8.png; 2.png, 9.png; 3.png, 10.png; 4.png, 11.png and 2 more"
    )
