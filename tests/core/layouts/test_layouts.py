# SPDX-License-Identifier: Apache-2.0
"""Each layout becomes the same dataset, and names what it leaves out."""

import json
import struct
import zlib
from collections.abc import Mapping
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from blemish_core.datasets.layout import LayoutPath
from blemish_layouts.black_png import is_black
from blemish_layouts.plan import LAYOUTS, Conversion, DatasetPlan, NotADataset, plan


def arrange(files: Mapping[str, bytes], **choices: object) -> DatasetPlan:
    arranged = plan(files, Conversion(**choices), lambda path, most: files[path][:most])  # type: ignore[arg-type]
    for file in arranged.files:
        LayoutPath.parse(file.path)
        assert file.source in files
    sources = [file.source for file in arranged.files]
    assert len(set(sources)) == len(sources)
    return arranged


def summary(arranged: DatasetPlan) -> dict[str, str]:
    """Return part and class of each file by its path in the folder."""
    return {file.source: f"{file.part}/{file.class_name}" for file in arranged.files}


def pairs(arranged: DatasetPlan) -> dict[str, set[str]]:
    """Return the masks of each defective image."""
    places = {file.source: LayoutPath.parse(file.path) for file in arranged.files}
    masks = {path: place for path, place in places.items() if place.part == "ground_truth"}
    return {
        path: {mask for mask, other in masks.items() if place.pairs[0] in other.pairs}
        for path, place in places.items()
        if place.part == "test" and place.pairs
    }


def left_out(arranged: DatasetPlan) -> set[str]:
    return {each.source for each in arranged.left_out}


def empty(*paths: str) -> dict[str, bytes]:
    return dict.fromkeys(paths, b"")


def png(*, defect: bool, mode: str = "L", side: int = 40) -> bytes:
    pixels = np.zeros((side, side) if mode == "L" else (side, side, 3), dtype=np.uint8)
    pixels[side - 1, side - 1] = 255 * defect
    out = BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "PNG")
    return out.getvalue()


def test_mvtec_ad() -> None:
    arranged = arrange(
        empty(
            "train/good/0.png",
            "test/good/0.png",
            "test/cut/0.png",
            "ground_truth/cut/0_mask.png",
            "readme.txt",
        )
    )
    assert arranged.layout == "mvtec-ad"
    assert len(arranged.files) == 4
    assert pairs(arranged) == {"test/cut/0.png": {"ground_truth/cut/0_mask.png"}}


def test_mvtec_loco_merges_the_masks_of_an_image() -> None:
    masks = [
        f"ground_truth/logical_anomalies/{image}/{n:03}.png"
        for image, n in (("000", 0), ("000", 1), ("001", 0))
    ]
    arranged = arrange(
        empty(
            *("train/good/000.png", "validation/good/000.png", "test/good/000.png", "defects_config.json"),
            *("test/logical_anomalies/000.png", "test/logical_anomalies/001.png"),
            *("test/structural_anomalies/000.png", "ground_truth/structural_anomalies/000/000.png"),
            *masks,
        )
    )
    assert arranged.layout == "mvtec-loco"
    assert pairs(arranged) == {
        "test/logical_anomalies/000.png": set(masks[:2]),
        "test/logical_anomalies/001.png": {masks[2]},
        "test/structural_anomalies/000.png": {"ground_truth/structural_anomalies/000/000.png"},
    }
    assert summary(arranged)["validation/good/000.png"] == "train/good"
    assert not arranged.left_out


def test_mvtec_ad_2() -> None:
    arranged = arrange(
        empty(
            *("train/good/000_regular.png", "validation/good/000_regular.png"),
            *("test_public/good/000_regular.png", "test_public/bad/000_regular.png"),
            *("test_public/ground_truth/bad/000_regular_mask.png", "test_private/000.png"),
            *("test_private_mixed/000_mixed.png", "test_private_mixed/001_mixed.png"),
        )
    )
    assert arranged.layout == "mvtec-ad-2"
    assert summary(arranged) == {
        "train/good/000_regular.png": "train/good",
        "validation/good/000_regular.png": "train/good",
        "test_public/good/000_regular.png": "test/good",
        "test_public/bad/000_regular.png": "test/bad",
        "test_public/ground_truth/bad/000_regular_mask.png": "ground_truth/bad",
    }
    assert pairs(arranged) == {
        "test_public/bad/000_regular.png": {"test_public/ground_truth/bad/000_regular_mask.png"}
    }
    assert {each.source: each.reason for each in arranged.left_out} == {
        "test_private": "1 image: its images have no labels",
        "test_private_mixed": "2 images: its images have no labels",
    }


@pytest.mark.parametrize("layout", ["", "btad"])
def test_btad(layout: str) -> None:
    arranged = arrange(
        empty("train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp", "ground_truth/ko/0000.png"),
        layout=layout,
    )
    assert summary(arranged) == {
        "train/ok/0000.bmp": "train/good",
        "test/ok/0000.bmp": "test/good",
        "test/ko/0000.bmp": "test/ko",
        "ground_truth/ko/0000.png": "ground_truth/ko",
    }
    assert pairs(arranged) == {"test/ko/0000.bmp": {"ground_truth/ko/0000.png"}}


VISA = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0000.JPG,
candle,test,normal,candle/Data/Images/Normal/0001.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
candle,test,anomaly,candle/Data/Images/Anomaly/999.JPG,
pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,
"""


def test_visa() -> None:
    files = empty(
        *(f"candle/Data/Images/Normal/{n:04}.JPG" for n in range(3)),
        *("candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png"),
        *("pcb1/Data/Images/Normal/0000.JPG", "split_csv/2cls_fewshot.csv", "candle/image_anno.csv"),
    )
    files["split_csv/1cls.csv"] = VISA.encode()
    with pytest.raises(NotADataset, match=r"several objects; choose one with --category: candle, pcb1"):
        arrange(files)
    arranged = arrange(files, category="candle")
    assert arranged.layout == "visa"
    assert summary(arranged) == {
        "candle/Data/Images/Normal/0000.JPG": "train/good",
        "candle/Data/Images/Normal/0001.JPG": "test/good",
        "candle/Data/Images/Anomaly/000.JPG": "test/anomaly",
        "candle/Data/Masks/Anomaly/000.png": "ground_truth/anomaly",
    }
    assert pairs(arranged) == {"candle/Data/Images/Anomaly/000.JPG": {"candle/Data/Masks/Anomaly/000.png"}}
    reasons = {each.source: (each.reason, each.expected) for each in arranged.left_out}
    assert reasons == {
        "split_csv/2cls_fewshot.csv": (
            "is another division of the images; split_csv/1cls.csv was used",
            True,
        ),
        "candle/Data/Images/Anomaly/999.JPG": ("split_csv/1cls.csv, line 5: does not exist", False),
        "candle/Data/Images/Normal": ("1 image: not named in split_csv/1cls.csv", True),
        "pcb1": ("is another object", True),
    }


def test_one_object_of_visa_has_a_table_of_its_own() -> None:
    files = empty(
        *(f"Data/Images/Normal/{n:04}.JPG" for n in range(20)),
        *("Data/Images/Anomaly/000.JPG", "Data/Masks/Anomaly/000.png"),
    )
    rows = "".join(f"candle/Data/Images/Normal/{n:04}.JPG,normal,\n" for n in range(20))
    rows += '"candle/Data/Images/Anomaly/000.JPG","melt, other",candle/Data/Masks/Anomaly/000.png\n'
    files["image_anno.csv"] = f"image,label,mask\n{rows}".encode()
    arranged = arrange(files)
    assert summary(arranged)["Data/Images/Anomaly/000.JPG"] == "test/melt_other"
    assert pairs(arranged) == {"Data/Images/Anomaly/000.JPG": {"Data/Masks/Anomaly/000.png"}}
    assert {"train/good", "test/good"} <= set(summary(arranged).values())
    assert not arranged.left_out


def test_ksdd2_judges_images_by_their_masks() -> None:
    files: dict[str, bytes] = {}
    for path, defect in (("train/1", False), ("train/2", True), ("test/3", False), ("test/4", True)):
        files |= {f"{path}.png": b"", f"{path}_GT.png": png(defect=defect)}
    files |= {"test/5.png": b"", "test/5_GT.png": b"damaged", "split_weakly_246.pyb": b""}
    arranged = arrange(files)
    assert arranged.layout == "ksdd2"
    assert summary(arranged) == {
        "train/1.png": "train/good",
        "test/3.png": "test/good",
        "test/4.png": "test/defect",
        "test/4_GT.png": "ground_truth/defect",
    }
    assert pairs(arranged) == {"test/4.png": {"test/4_GT.png"}}
    assert {each.source: each.expected for each in arranged.left_out} == {
        "train/2.png": True,
        "test/5.png": False,
    }


REAL_IAD = {
    "meta": {"prefix": "audiojack/", "normal_class": "OK", "pre_transform": []},
    "train": [
        {
            "category": "audiojack",
            "anomaly_class": "OK",
            "image_path": "OK/S0001/a_OK_C1.jpg",
            "mask_path": None,
        },
        {
            "category": "audiojack",
            "anomaly_class": "AK",
            "image_path": "NG/AK/S9/a_C1.jpg",
            "mask_path": None,
        },
    ],
    "test": [
        {"category": "audiojack", "anomaly_class": "OK", "image_path": "OK/S0002/a_OK_C1.jpg"},
        {
            "category": "audiojack",
            "anomaly_class": "AK",
            "image_path": "NG/AK/S0003/a_NG_C1.jpg",
            "mask_path": "NG/AK/S0003/a_NG_C1_mask.png",
        },
    ],
}


def test_real_iad() -> None:
    names = ("OK/S0001/a_OK_C1.jpg", "OK/S0002/a_OK_C1.jpg", "NG/AK/S9/a_C1.jpg")
    more = ("NG/AK/S0003/a_NG_C1.jpg", "NG/AK/S0003/a_NG_C1_mask.png", "OK/S0004/a_OK_C1.jpg")
    tops = ("realiad_1024", "realiad_256")
    files = empty(*(f"{top}/audiojack/{name}" for top in tops for name in (*names, *more)))
    for folder in ("realiad_jsons", "realiad_jsons_sv"):
        files[f"realiad_jsons/{folder}/audiojack.json"] = json.dumps(REAL_IAD).encode()
    arranged = arrange(files)
    assert arranged.layout == "real-iad"
    base = "realiad_1024/audiojack"
    assert summary(arranged) == {
        f"{base}/OK/S0001/a_OK_C1.jpg": "train/good",
        f"{base}/OK/S0002/a_OK_C1.jpg": "test/good",
        f"{base}/NG/AK/S0003/a_NG_C1.jpg": "test/AK",
        f"{base}/NG/AK/S0003/a_NG_C1_mask.png": "ground_truth/AK",
    }
    assert pairs(arranged) == {f"{base}/NG/AK/S0003/a_NG_C1.jpg": {f"{base}/NG/AK/S0003/a_NG_C1_mask.png"}}
    assert left_out(arranged) == {
        "realiad_jsons/realiad_jsons_sv/audiojack.json",
        f"{base}/NG/AK/S9/a_C1.jpg",
        f"{base}/OK/S0004",
        "realiad_256",
    }
    assert all(each.expected for each in arranged.left_out)


@pytest.mark.parametrize(
    "table",
    [
        b"{",
        b"[]",
        b'{"train": 1}',
        b'{"train": [{}]}',
        b"[" * 100_000,
        b"\xff",
        b'{"train": [], "test": []}',
    ],
)
def test_malformed_real_iad_is_refused(table: bytes) -> None:
    with pytest.raises(NotADataset, match=r"a\.json"):
        arrange({"realiad_jsons/a.json": table, "realiad_256/a/OK/1.jpg": b""})


def test_flat_folder_of_good_images_must_be_confirmed() -> None:
    files = empty("1.png", "2026-01-01/1.png", "notes.txt")
    with pytest.raises(NotADataset, match="--layout flat"):
        arrange(files)
    arranged = arrange(files, layout="flat")
    assert summary(arranged) == {"1.png": "train/good", "2026-01-01/1.png": "train/good"}
    assert left_out(arranged) == {"notes.txt"}


def test_ok_and_ng_folders() -> None:
    good = [f"OK/{n}.png" for n in range(60)]
    bad = ["NG/1.png", "NG/scratch/1.png", "NG/dent/1.png", "NG/2026-01-01/1.png"]
    arranged = arrange(empty(*good, *bad, "masks/scratch/1_mask.png", "masks/9.png", "other/1.png"))
    assert arranged.layout == "ok-ng"
    places = summary(arranged)
    assert [places[path] for path in bad] == ["test/NG", "test/scratch", "test/dent", "test/NG"]
    tests = [path for path in good if places[path] == "test/good"]
    assert 3 < len(tests) < 25
    assert {places[path] for path in good} == {"train/good", "test/good"}
    assert pairs(arranged)["NG/scratch/1.png"] == {"masks/scratch/1_mask.png"}
    assert left_out(arranged) == {"masks/9.png", "other"}
    more = arrange(empty(*good, *bad, "OK/more.png", "OK/new.png"))
    assert all(summary(more)[path] == places[path] for path in good), "an image keeps its part"


def test_few_ok_images_leave_one_for_testing() -> None:
    for number in range(2, 6):
        arranged = arrange(empty("NG/1.png", *(f"ok/{n}.png" for n in range(number))))
        assert {"test/good", "train/good"} <= set(summary(arranged).values())


def test_folders_that_a_person_names() -> None:
    files = empty(
        *(f"in Ordnung/{n}.png" for n in range(30)),
        *("Fehler/Riss/1.png", "Fehler/Riss/2.png", "Masken/1_mask.png", "Archiv/1.png"),
    )
    arranged = arrange(
        files, good=frozenset({"in Ordnung"}), bad=frozenset({"Fehler"}), masks=frozenset({"Masken"})
    )
    assert arranged.layout == "folders"
    assert {summary(arranged)[f"Fehler/Riss/{n}.png"] for n in (1, 2)} == {"test/Riss"}
    assert pairs(arranged) == {"Fehler/Riss/1.png": {"Masken/1_mask.png"}, "Fehler/Riss/2.png": set()}
    assert left_out(arranged) == {"Archiv"}
    with pytest.raises(NotADataset, match=r"no folder Fehlr with files; correct --bad"):
        arrange(files, bad=frozenset({"Fehlr"}))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_table_with_splits(delimiter: str, newline: str) -> None:
    rows = [
        ("Path", "Split", "Class", "Mask"),
        ("a/1.png", "train", "ok", ""),
        ("a\\2.png", "test", "ok", ""),
        ("./b/1.png", "test", "Riss, lang", "m/1.png"),
        ("b/2.png", "train", "Riss, lang", ""),
        ("b/9.png", "test", "Riss", ""),
        ("b/3.png", "holdout", "Riss", ""),
        ("b/4.png", "test", "", ""),
        ("../x.png", "test", "ok", ""),
    ]
    quoted = (delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    files = empty("a/1.png", "a/2.png", *(f"b/{n}.png" for n in range(1, 6)), "m/1.png")
    files["daten.csv"] = b"\xef\xbb\xbf" + (newline.join(quoted) + newline).encode()
    arranged = arrange(files)
    assert arranged.layout == "csv"
    assert summary(arranged) == {
        "a/1.png": "train/good",
        "a/2.png": "test/good",
        "b/1.png": "test/Riss_lang",
        "m/1.png": "ground_truth/Riss_lang",
    }
    assert pairs(arranged) == {"b/1.png": {"m/1.png"}}
    reasons = {each.source: each.reason for each in arranged.left_out}
    assert reasons["b/9.png"] == "daten.csv, line 6: the image does not exist in the folder"
    assert "'holdout'; use train, test or validation" in reasons["b/3.png"]
    assert reasons["b/4.png"].endswith("line 8: has no class")
    assert reasons["b"] == "1 image: not named in daten.csv"
    assert {each.source for each in arranged.left_out if each.expected} == {"b/2.png", "b"}
    assert "../x.png" in reasons


def test_table_without_splits_keeps_good_images_for_testing() -> None:
    files = empty(*(f"{n}.png" for n in range(40)))
    rows = "".join(f"{n}.png,{'good' if n < 30 else 'dent'}\n" for n in range(40))
    files["labels.csv"] = f"filename,label\n{rows}".encode()
    parts = list(summary(arrange(files)).values())
    assert parts.count("test/dent") == 10
    assert 0 < parts.count("test/good") < 15
    assert parts.count("test/good") + parts.count("train/good") == 30


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name,kind\n1.png,good\n", "no column path and class"),
        (b"", "no column path and class"),
        (b"path,class\n\xff", "not text in UTF-8"),
        (b'path,class\n"' + b"x" * 200_000, "not a valid CSV file"),
    ],
)
def test_malformed_table_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(NotADataset, match=reason):
        arrange({"1.png": b"", "table.csv": content}, layout="csv")


def test_unknown_layout_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotADataset, match=", ".join(LAYOUTS)):
        arrange(empty("train/good/1.png"), layout="mvtec")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folder_that_does_not_fit_is_refused(layout: str) -> None:
    with pytest.raises(NotADataset):
        arrange(empty("notes.txt", "a/b/c.bin"), layout=layout)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
@pytest.mark.parametrize("side", [1, 7, 40, 1500])
def test_black_png_is_recognised(mode: str, side: int) -> None:
    for defect in (False, True):
        if mode == "I;16":
            pixels = np.zeros((side, side), dtype=np.uint16)
            pixels[-1, -1] = 300 * defect
            out = BytesIO()
            Image.fromarray(pixels).save(out, "PNG")
            data = out.getvalue()
        else:
            data = png(defect=defect, mode="RGB" if mode == "RGB" else "L", side=side)
            if mode == "1":
                out = BytesIO()
                Image.open(BytesIO(data)).point(lambda value: value and 255).convert("1").save(out, "PNG")
                data = out.getvalue()
        assert is_black(data) is not defect


def test_png_that_cannot_be_judged_is_not_called_black() -> None:
    black = png(defect=False)
    out = BytesIO()
    Image.new("RGBA", (8, 8)).save(out, "PNG")
    for data in (b"", b"x" * 99, black[:-40], black[:50], out.getvalue()):
        assert is_black(data) is None
    huge = struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + huge + struct.pack(">I", zlib.crc32(b"IHDR" + huge))
    assert is_black(b"\x89PNG\r\n\x1a\n" + chunk) is None
