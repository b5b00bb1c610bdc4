# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.support.fake_server import hit
from tests.support.regions import make_region_message

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL, AnomalyMap, DefectRegion
from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.search_pb2 import Match
from blemish_client import rendering
from blemish_client.rendering import contact
from blemish_client.rendering.colours import GOOD, class_colours, heat
from blemish_client.rendering.montage import BORDER, GAP, MARGIN, TILE, TITLE
from blemish_client.rendering.text import drawable

GREY = (120, 120, 120)


def hot_spot(side: int = 64) -> NDArray[np.float32]:
    scores = np.full((side, side), 1.0, dtype=np.float32)
    scores[16:32, 32:48] = 5.0
    return scores


def redness(picture: Image.Image) -> NDArray[np.int64]:
    red, *others = (np.asarray(band, dtype=np.int64) for band in picture.convert("RGB").split())
    return red - np.maximum(*others)


def test_heatmap_is_reddest_where_it_is_hot() -> None:
    drawn = rendering.heatmap(Image.new("RGB", (256, 192), GREY), hot_spot(), 2.0)
    assert drawn.size == (256, 192)
    red = redness(drawn)
    inside, outside = red[54:90, 136:184], red[110:, :120]
    assert inside.min() > 80
    assert np.abs(outside).max() <= 1
    row, column = np.unravel_index(red.argmax(), red.shape)
    assert 48 <= row < 96
    assert 128 <= column < 192


def test_heatmap_outlines_the_region_above_the_threshold() -> None:
    white = np.array((255, 255, 255))

    def outlined(threshold: float) -> int:
        drawn = rendering.heatmap(Image.new("RGB", (256, 256), GREY), hot_spot(), threshold)
        return int((np.asarray(drawn) == white).all(axis=-1).sum())

    assert outlined(2.0) >= 4 * 60
    assert outlined(6.0) == 0


def test_heatmap_outlines_regions_at_the_size_of_the_picture() -> None:
    image = Image.new("RGB", (256, 256), GREY)
    regions = [make_region_message(30, 20, 20, 10)]
    white = np.array((255, 255, 255))

    def outlined(drawn: Image.Image) -> NDArray[np.bool_]:
        return np.asarray((np.asarray(drawn) == white).all(axis=-1))

    edge = outlined(rendering.heatmap(image, hot_spot(), 2.0, regions=regions, region_size=(128, 128)))
    down, across = np.nonzero(edge)
    assert (across.min(), across.max()) == pytest.approx((60, 100), abs=3)
    assert (down.min(), down.max()) == pytest.approx((40, 60), abs=3)
    assert not outlined(rendering.heatmap(image, hot_spot(), 2.0, regions=[])).any()


def test_contact_sheet_outlines_regions_and_marks_missing_frames() -> None:
    frame = Image.new("RGB", (64, 64), GREY)
    regions = [make_region_message(30, 20, 60, 20)]
    lines = ("2026-12-01 22:00:00", "camera line-3", "score 3.000")

    def tile(sheet: Image.Image, column: int) -> NDArray[np.uint8]:
        left = contact.MARGIN + column * (contact.SIDE + contact.GAP)
        top = contact.MARGIN + contact.TITLE + contact.GAP
        return np.asarray(sheet.crop((left, top, left + contact.SIDE, top + contact.SIDE)))

    sheet = rendering.contact_sheet(
        "night",
        [
            rendering.ContactEntry("1  6f1c2b1e", lines, frame, regions, (128, 128)),
            rendering.ContactEntry("2  7a90d3f2", lines, frame),
            rendering.ContactEntry("3  8b011111", lines, None),
        ],
    )
    down, across = np.nonzero((tile(sheet, 0) > 200).all(axis=-1))
    scale = contact.SIDE / 128
    assert (across.min() / scale, across.max() / scale) == pytest.approx((30, 90), abs=2)
    assert (down.min() / scale, down.max() / scale) == pytest.approx((20, 40), abs=2)
    assert (tile(sheet, 1) == GREY).all()
    assert not (tile(sheet, 2) == GREY).all(axis=-1).any()


@pytest.mark.parametrize("region", [make_region_message(3, 4, 1, 1), make_region_message(0, 0, 8, 1)])
def test_thinnest_regions_are_drawn(region: DefectRegion) -> None:
    for size in ((8, 8), (4, 4), (64, 64)):
        assert rendering.region_mask([region], (8, 8), size).any()
    mask = rendering.region_mask([region], (8, 8), (8, 8))
    assert mask.sum() == pytest.approx(region.area, abs=1)


def test_anomalous_image_without_regions_is_of_an_older_server() -> None:
    assert rendering.drawable_regions(Inspection(verdict=VERDICT_ANOMALOUS)) is None
    assert list(rendering.drawable_regions(Inspection(verdict=VERDICT_NORMAL)) or ()) == []


def test_good_image_has_no_strong_colours() -> None:
    seed = 5
    print(f"seed {seed}")
    scores = np.random.default_rng(seed).uniform(1.0, 1.9, (64, 64)).astype(np.float32)
    drawn = rendering.heatmap(Image.new("RGB", (256, 256), GREY), scores, 2.0)
    assert redness(drawn).max() < 60


@pytest.mark.parametrize("value", [0.0, 1.0, 3.0])
def test_constant_map(value: float) -> None:
    flat = np.full((8, 8), value, dtype=np.float32)
    assert rendering.heatmap(Image.new("L", (20, 10)), flat, 1.0).size == (20, 10)


def test_caption_adds_a_strip() -> None:
    image = Image.new("RGB", (256, 200), GREY)
    drawn = rendering.heatmap(image, hot_spot(), 2.0, caption="anomalous, " * 20)
    assert drawn.width == 256
    assert drawn.height > 200
    plain = rendering.heatmap(image, hot_spot(), 2.0)
    assert np.array_equal(np.asarray(drawn)[:200], np.asarray(plain))
    assert np.asarray(drawn)[200:].min() < 128


def test_heat_scale_darkens_monotonically() -> None:
    colours = heat(np.linspace(0, 1, 50))
    lightness = colours @ np.array((0.2126, 0.7152, 0.0722))
    assert (np.diff(lightness) < 0).all()


def test_values() -> None:
    scores = np.arange(6, dtype="<f4").reshape(2, 3)
    found = rendering.pixel_scores(AnomalyMap(width=3, height=2, values=scores.tobytes()))
    assert np.array_equal(found, scores)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_decoded(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (5, 4)).save(buffer, "TIFF")
    image = rendering.decode(buffer.getvalue())
    assert (image.mode, image.size) == ("RGB", (5, 4))


def test_sixteen_bits_are_scaled() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 32896, dtype=np.uint16)).save(buffer, "PNG")
    assert rendering.decode(buffer.getvalue()).getpixel((0, 0)) == (128, 128, 128)


def test_large() -> None:
    assert rendering.enlarge(Image.new("RGB", (256, 128))).size == (512, 256)
    assert rendering.enlarge(Image.new("RGB", (700, 128))).size == (700, 128)


def test_montage_frames_tiles_by_class() -> None:
    classes = ["crack"] * 4 + ["good"] * 2 + ["oil"]
    hits = [hit(name, 0.9 - i / 100, i) for i, name in enumerate(classes)]
    inspection = Inspection(score=2, threshold=1, verdict=VERDICT_ANOMALOUS)
    query = rendering.MontageQuery("q.png", Image.new("RGB", (64, 48), GREY), "crack", inspection)
    drawn = rendering.montage(query, hits, columns=4)
    wide = rendering.montage(query, hits, columns=5)
    assert wide.width - drawn.width == TILE + GAP
    assert wide.height == drawn.height
    assert rendering.montage(query, [*hits, *hits], columns=4).height > drawn.height

    colours = class_colours(classes)
    framed = np.asarray(drawn)
    for name, colour in colours.items():
        # A bar of the frame's width and the tile's length stands in the picture for each class.
        there = (framed == np.array(colour)).all(axis=-1)
        assert there.sum() >= classes.count(name) * (TILE**2 - (TILE - 2 * BORDER) ** 2)
    assert colours["good"] == GOOD
    assert len(set(colours.values())) == 3


def test_montage_without_images_or_hits() -> None:
    bare = hit("crack", 0.5, 1)
    bare.ClearField("thumbnail")
    nameless = rendering.MontageQuery("items/7", None)
    assert rendering.montage(nameless, [bare]).size > (300, 300)
    assert rendering.montage(nameless, []).size > (300, 300)


def test_sheet() -> None:
    found = AnomalyMap(width=64, height=64, values=hot_spot().astype("<f4").tobytes(), threshold=2.0)
    inspection = Inspection(score=5, threshold=2, verdict=VERDICT_ANOMALOUS, anomaly_map=found)
    image = Image.new("RGB", (64, 32), GREY)
    column = rendering.SheetColumn("crack", "000", image, Image.new("L", (64, 32)), inspection)
    one, two = rendering.sheet("tile", [column]), rendering.sheet("tile", [column, column])
    assert two.width > one.width
    assert redness(one).max() > 80


@pytest.mark.parametrize("seed", range(6))
def test_sheet_outlines_defects_of_a_few_pixels_in_large_images(seed: int) -> None:
    random = np.random.default_rng(seed)
    left, top = (int(at) for at in random.integers(0, 4088, size=2))
    mask = np.zeros((4096, 4096), np.uint16)
    mask[top : top + 8, left : left + 8] = 1
    inspection = Inspection(
        score=1, threshold=2, anomaly_map=AnomalyMap(width=2, height=2, values=bytes(16))
    )
    image = Image.new("RGB", (4096, 4096), GREY)
    column = rendering.SheetColumn("crack", "000", image, Image.fromarray(mask), inspection)
    plain = rendering.SheetColumn("crack", "000", image, None, inspection)
    drawn, bare = (np.asarray(rendering.sheet("tile", [each])).astype(int) for each in (column, plain))
    assert np.abs(drawn - bare).max() > 60


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


ALIKE = [
    saved(Image.new("RGB", (20, 20)), "PNG"),
    saved(Image.new("L", (20, 20)), "TIFF"),
    saved(Image.new("RGB", (20, 20)), "JPEG"),
    saved(Image.new("P", (20, 20)), "PNG"),
    saved(Image.new("1", (20, 20)), "BMP"),
]
READ_BY_SERVER = [
    saved(Image.new("I;16", (20, 20)), "PNG"),
    saved(Image.new("I;16", (20, 20)), "TIFF"),
    saved(Image.new("F", (20, 20)), "TIFF"),
    saved(Image.new("RGBA", (20, 20)), "PNG"),
    saved(Image.new("L", (20, 20)), "PNG", transparency=3),
    saved(Image.new("L", (20, 20)), "JPEG2000"),
    saved(Image.new("L", (20, 20)), "PPM"),
    b"not an image",
]


@pytest.mark.parametrize("content", ALIKE)
def test_ordinary_images_are_drawn_as_sent(content: bytes) -> None:
    inspection = Inspection()
    inspection.preview.jpeg, inspection.preview.width = b"unused", 4000
    assert rendering.is_read_alike(content)
    assert rendering.picture(content, inspection).size == (20, 20)


@pytest.mark.parametrize("content", READ_BY_SERVER)
def test_other_images_are_drawn_from_the_preview(content: bytes) -> None:
    inspection = Inspection()
    inspection.preview.jpeg = saved(Image.new("RGB", (10, 8), GREY), "JPEG")
    inspection.preview.width, inspection.preview.height = 40, 32
    assert not rendering.is_read_alike(content)
    shown = rendering.picture(content, inspection)
    assert (shown.image.size, shown.size) == ((10, 8), (40, 32))


def test_region_of_a_query_is_drawn_at_the_scale_of_the_scored_image() -> None:
    small = Image.new("RGB", (100, 100), GREY)
    outlined = [
        rendering.montage(
            rendering.MontageQuery("q", image, region=(200, 200, 400, 400), size=(1000, 1000)), []
        )
        for image in (small, small.resize((1000, 1000)))
    ]
    first, second = (np.asarray(page.convert("L")).astype(int) for page in outlined)
    assert np.abs(first - second).mean() < 3


@pytest.mark.parametrize("name", ["Sprünge", "царапина", "划痕", "裂纹", "खरोंच"])
def test_name_in_any_script_is_drawn_legibly(name: str) -> None:
    text, letters = drawable(name, 16)
    absent = bytes(letters.getmask("\U0010ffff"))
    assert all(bytes(letters.getmask(each)) != absent for each in text)
    assert drawable("crack 0.5…", 16)[0] == "crack 0.5…"
    assert len({drawable(each, 16)[0] for each in ("划痕", "裂纹")}) == 2


def test_boxes_below_a_pixel_of_the_picture_are_drawn() -> None:
    found = hit("crack", 0.9, 1)
    found.match.box.left, found.match.box.top = 4080, 4080
    found.match.box.width = found.match.box.height = 8
    found.match.width = found.match.height = 4096
    small = Image.new("RGB", (100, 100), GREY)
    query = rendering.MontageQuery("q", small, region=(100, 100, 8, 8), size=(4096, 4096))
    drawn, plain = (
        np.asarray(rendering.montage(each, [found])).astype(int)
        for each in (query, rendering.MontageQuery("q", small))
    )
    assert np.abs(drawn - plain).max() > 60


def test_montage_shows_the_similarity_by_which_hits_are_sorted() -> None:
    def caption(similarity: float, place: float | None) -> NDArray[np.uint8]:
        found = hit("crack", similarity, 1)
        if place is not None:
            found.match.CopyFrom(Match(similarity=place, width=48, height=48))
        drawn = rendering.montage(rendering.MontageQuery("q", None), [found])
        return np.asarray(drawn.crop((0, MARGIN + TITLE + GAP + TILE, *drawn.size)))

    assert np.array_equal(caption(0.9, 0.5), caption(0.7, None))
    assert not np.array_equal(caption(0.9, 0.5), caption(0.9, None))
