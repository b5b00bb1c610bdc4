# SPDX-License-Identifier: Apache-2.0
"""The white of deep samples: by the format, the file, the dataset, or assumed."""

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish_core.imaging.decode import ImageLimits, decode, decode_image, read_mask, verify
from blemish_core.imaging.image_input import ImageInput, RawLayout
from blemish_core.imaging.white_level import (
    FULL,
    StoredDepth,
    WhiteLevel,
    white_level_of,
    white_level_warnings,
)
from blemish_core.platform.errors import InvalidImage

if TYPE_CHECKING:
    from tests.core.imaging.decode.conftest import Files

PX = 48
OWN = WhiteLevel()
TWELVE = WhiteLevel(level=4095, given=True)


def grey(bits: int, seed: int = 1) -> NDArray[np.uint16]:
    """Return random samples of so many bits, (PX, PX, 1), with black and white."""
    samples = np.random.default_rng(seed).integers(0, 1 << bits, (PX, PX, 1))
    samples[0, :2, 0] = 0, (1 << bits) - 1
    return samples.astype(np.uint16)


def as_raw(samples: NDArray[np.uint16], name: str, level: WhiteLevel | None = None) -> NDArray[np.uint8]:
    data = samples.astype("<u2").tobytes()
    return ImageInput(data, RawLayout(name, PX, PX)).pixels(ImageLimits(), level)


def sbit(files: "Files", *bits: int) -> bytes:
    return files.chunk(b"sBIT", bytes(bits))


class TestStatements:
    def test_without_a_statement_12_bits_in_16_stay_dark(self, files: "Files") -> None:
        found = decode_image(files.png(grey(12), 0), level=OWN)
        assert found.pixels.max() == 16
        assert found.depth is not None
        assert found.depth.is_dark
        assert "in which 65535 is white" in found.depth.note()
        assert "--white-level" in found.depth.note()

    @pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
    def test_significant_bits_of_a_png_give_the_pixels_of_the_raw_format(
        self, files: "Files", bits: int
    ) -> None:
        samples = grey(bits)
        found = decode(files.png(samples, 0, sbit(files, bits)), level=OWN)
        expected = np.floor(samples.astype(float) * 255 / ((1 << bits) - 1) + 0.5)
        assert (found == expected).all()
        if bits in (10, 12, 14):
            assert (found == as_raw(samples, f"Mono{bits}")).all()

    @pytest.mark.parametrize("scaling", ["zeros", "repeated", "linear"])
    def test_samples_scaled_to_16_bits_as_the_standard_asks_give_the_same_pixels(
        self, files: "Files", scaling: str
    ) -> None:
        samples = grey(12)
        match scaling:
            case "zeros":
                scaled = samples << 4
            case "repeated":
                scaled = samples << 4 | samples >> 8
            case _:
                scaled = np.rint(samples * (65_535 / 4095)).astype(np.uint16)
        found = decode(files.png(scaled.astype(np.uint16), 0, sbit(files, 12)), level=OWN)
        assert (found == as_raw(samples, "Mono12")).all()

    def test_dark_image_scaled_to_16_bits_is_not_brightened(self, files: "Files") -> None:
        samples = grey(7)
        found = decode(files.png((samples << 4).astype(np.uint16), 0, sbit(files, 12)), level=OWN)
        assert (found == as_raw(samples, "Mono12")).all()

    def test_significant_bits_of_colours_and_alpha(self, files: "Files") -> None:
        colours = np.random.default_rng(2).integers(0, 4096, (PX, PX, 3)).astype(np.uint16)
        expected = np.floor(colours.astype(float) * 255 / 4095 + 0.5)
        assert (decode(files.png(colours, 2, sbit(files, 12, 12, 12)), level=OWN) == expected).all()
        opaque = np.dstack([colours, np.full((PX, PX), 4095, np.uint16)])
        assert (decode(files.png(opaque, 6, sbit(files, 12, 12, 12, 12)), level=OWN) == expected).all()

    @pytest.mark.parametrize("tag", ["t281", "t341"])
    @pytest.mark.parametrize("value", [4095, 4000, 2100])
    def test_highest_value_of_a_tiff_gives_its_bits(self, files: "Files", tag: str, value: int) -> None:
        samples = np.minimum(grey(12), value).astype(np.uint16)
        found = decode(files.tiff(samples, "<", 1, **{tag: [value]}), level=OWN)
        assert (found == as_raw(samples, "Mono12")).all()

    def test_inverted_tiff_is_inverted_at_its_white(self, files: "Files") -> None:
        samples = grey(12)
        found = decode(files.tiff(samples, "<", 0, t281=[4095]), level=OWN)
        assert (found == as_raw(4095 - samples, "Mono12")).all()

    def test_tiff_of_12_bits_equals_the_raw_format(self, files: "Files") -> None:
        samples = grey(12)
        first, second = samples[:, 0::2, 0].astype(int), samples[:, 1::2, 0].astype(int)
        packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
        data = files.tiff(packed.reshape(PX, -1, 1).astype(np.uint8), "<", 1, t256=PX, t258=[12])
        for level in (None, OWN, TWELVE):
            assert (decode(data, level=level) == as_raw(samples, "Mono12")).all()

    def test_statement_below_the_samples_is_ignored(self, files: "Files") -> None:
        samples = grey(16)
        found = decode(files.tiff(samples, "<", 1, t281=[4095]), level=OWN)
        assert (found == files.eighth(samples)).all()

    def test_float_tiff_is_a_fraction_of_white_at_any_level(self, files: "Files") -> None:
        values = np.linspace(0, 1, PX * PX, dtype=np.float32).reshape(PX, PX, 1)
        for level in (None, OWN, TWELVE):
            found = decode(files.tiff(values, "<", 1), level=level)
            assert np.abs(found - values * 255).max() < 0.51

    def test_float_tiff_that_states_white_is_scaled_by_it(self, files: "Files") -> None:
        samples = grey(12)
        data = files.tiff(samples.astype(np.float32), "<", 1, t341=[4095])
        assert (decode(data, level=OWN) == as_raw(samples, "Mono12")).all()
        with pytest.raises(InvalidImage, match="does not define white"):
            decode(data)

    def test_damaged_significant_bits_are_ignored(self, files: "Files") -> None:
        samples = grey(16)
        for chunk in (sbit(files, 0), sbit(files, 200), sbit(files, 12, 12, 12, 12, 12), sbit(files)):
            if len(chunk) > 12 and chunk[8] in (0, 200):
                assert (decode(files.png(samples, 0, chunk), level=OWN) == files.eighth(samples)).all()

    def test_8_bits_are_never_scaled(self, files: "Files") -> None:
        image = files.sample_image()
        for level in (None, OWN, TWELVE):
            assert (decode(files.encoded(image, "PNG"), level=level) == image).all()


class TestLevel:
    def test_level_makes_files_and_raw_frames_equal(self, files: "Files") -> None:
        samples = grey(12)
        expected = as_raw(samples, "Mono12", TWELVE)
        assert (decode(files.png(samples, 0), level=TWELVE) == expected).all()
        assert (decode(files.tiff(samples, "<", 1), level=TWELVE) == expected).all()
        assert (as_raw(samples, "Mono16", TWELVE) == expected).all()
        learned = WhiteLevel(level=4095)
        assert (decode(files.png(samples, 0), level=learned) == expected).all()

    def test_formats_of_other_bits_define_their_own_white(self) -> None:
        for bits in (10, 14):
            samples = grey(bits)
            assert (as_raw(samples, f"Mono{bits}", TWELVE) == as_raw(samples, f"Mono{bits}")).all()

    def test_level_below_all_bits_applies_to_the_format_of_these_bits(self, files: "Files") -> None:
        level = WhiteLevel(level=3000, given=True)
        samples = grey(12)
        found = as_raw(samples, "Mono12", level)
        assert (found == np.minimum(255, np.floor(samples.astype(float) * 255 / 3000 + 0.5))).all()
        assert (decode(files.png(samples, 0), level=level) == found).all()

    def test_given_level_replaces_statements_and_a_learned_one_does_not(self, files: "Files") -> None:
        samples = grey(10)
        data = files.png(samples, 0, sbit(files, 10))
        assert decode(data, level=TWELVE).max() == round(1023 * 255 / 4095)
        assert decode(data, level=WhiteLevel(level=4095)).max() == 255

    def test_sample_of_more_bits_than_the_level_is_refused_with_the_remedy(self, files: "Files") -> None:
        data = files.png(grey(16), 0)
        for level in (TWELVE, WhiteLevel(level=4095)):
            with pytest.raises(InvalidImage, match="a sample is 65535, but the white level is 4095, of 12"):
                decode(data, level=level)

    def test_versions_without_a_level_keep_their_rule(self, files: "Files") -> None:
        samples = grey(12)
        for data in (
            files.png(samples, 0, sbit(files, 12)),
            files.tiff(samples, "<", 1, t281=[4095]),
            files.png((samples << 4).astype(np.uint16), 0),
        ):
            expected = samples << 4 if data == files.png((samples << 4).astype(np.uint16), 0) else samples
            assert (decode(data) == files.eighth(expected)).all()

    def test_masks_of_any_depth_have_no_level(self, files: "Files") -> None:
        samples = grey(1)
        assert (read_mask(files.png(samples, 0, sbit(files, 12))) == (samples[..., 0] > 0)).all()
        inverted = files.tiff(samples, "<", 0)
        assert (read_mask(inverted) == (samples[..., 0] != FULL)).all()


@pytest.mark.parametrize(
    ("kind", "white", "by_format"),
    [("plain", None, False), ("sbit", 4095, False), ("tag", 4095, False), ("float", FULL, True)],
)
def test_header_has_the_statement_of_the_file(
    files: "Files", kind: str, white: int | None, *, by_format: bool
) -> None:
    samples = grey(12)
    content: dict[str, Any] = {
        "plain": files.png(samples, 0),
        "sbit": files.png(samples, 0, sbit(files, 12)),
        "tag": files.tiff(samples, "<", 1, t341=[4095]),
        "float": files.tiff((samples / 4095).astype(np.float32), "<", 1),
    }
    header = verify(content[kind], level=OWN)
    assert (header.stated_white, header.white_by_format) == (white, by_format)
    assert header.highest == (FULL if kind == "float" else 4095)
    assert verify(files.encoded(files.sample_image(), "PNG"), level=OWN).depth is None


def stored(*depths: tuple[int, int | None]) -> list[StoredDepth]:
    return [StoredDepth(f"train/good/{n}.png", *depth) for n, depth in enumerate(depths)]


@pytest.mark.parametrize(
    ("depths", "given", "expected"),
    [
        ([], None, OWN),
        ([(4095, None)], None, OWN),
        ([(4095, None)], 4095, TWELVE),
        ([(4095, 4095), (3000, None)], None, WhiteLevel(level=4095)),
        ([(4095, 4095), (30_000, None)], None, OWN),
        ([(4095, 4095), (1023, 1023)], None, OWN),
        ([(4095, 4095), (FULL, FULL)], None, WhiteLevel(level=4095)),
    ],
)
def test_level_of_a_dataset_is_what_its_images_agree_on(
    depths: list[tuple[int, int | None]], given: int | None, expected: WhiteLevel
) -> None:
    assert white_level_of(stored(*depths), given) == expected


def test_dark_images_and_disagreement_are_warned_about_with_the_remedy() -> None:
    (dark,) = white_level_warnings(stored((4095, None), (4000, None)), None, "tile")
    assert "2 images use at most a sixteenth" in dark
    assert "up to 4095: train/good/0.png, train/good/1.png" in dark
    assert "`blemish dataset update tile --white-level`" in dark
    assert white_level_warnings(stored((4095, None), (4000, None)), 4095, "tile") == []
    (differ,) = white_level_warnings(stored((4095, 4095), (1023, 1023), (FULL, None)), None, "tile")
    assert "1023 (1 images), 4095 (1 images), 65535 (1 images)" in differ
    assert "--white-level" in differ
    assert white_level_warnings(stored((4095, 4095), (4000, None)), None, "tile") == []


def test_image_of_a_sixteenth_of_a_stated_range_has_a_note(files: "Files") -> None:
    raw = ImageInput(grey(8).astype("<u2").tobytes(), RawLayout("Mono12", PX, PX))
    depth = raw.decoded(ImageLimits(), OWN).depth
    assert depth is not None
    assert depth.note() == (
        "the image uses at most a sixteenth of its range, in which 4095 is white; use more light or a "
        "longer exposure"
    )
    bright = ImageInput(struct.pack("<H", 300) * PX * PX, RawLayout("Mono12", PX, PX))
    brighter = bright.decoded(ImageLimits(), OWN).depth
    assert brighter is not None
    assert brighter.note() == ""
