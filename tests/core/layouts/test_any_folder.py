# SPDX-License-Identifier: Apache-2.0
"""No folder, however odd, makes a layout fail in another way than by its refusal."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from blemish_core.datasets.layout import LayoutPath
from blemish_layouts.plan import LAYOUTS, Conversion, NotADataset, plan

_WORDS = st.sampled_from(
    [
        *(
            "train",
            "Train",
            "test",
            "test_public",
            "test_private",
            "validation",
            "ground_truth",
            "split_csv",
        ),
        *(
            "good",
            "OK",
            "NG",
            "bad",
            "masks",
            "crack",
            "a b",
            "划痕",
            "realiad_jsons",
            "realiad_1024",
            "Data",
        ),
        *("candle", "Images", "Masks", "..", ".", "", "\udcff", "a\nb", "x" * 200),
    ]
)
_NAMES = st.sampled_from(
    [
        *(
            "1.png",
            "1_GT.png",
            "1_mask.png",
            "1_mask_1.PNG",
            "2.jpg",
            "Image (1).png",
            "_.png",
            ".png",
            "png",
        ),
        *("1cls.csv", "labels.csv", "candle.json", "notes.txt", "\udcff.png", "\n.png", "a" * 250 + ".png"),
    ]
)
_PATHS = st.builds(lambda folders, name: "/".join([*folders, name]), st.lists(_WORDS, max_size=4), _NAMES)
_TABLES = st.sampled_from(
    [
        b"path,class,split,mask\n1.png,good,train,\nNG/1.png,crack,test,masks/1.png\n",
        b"object,split,label,image,mask\ncandle,train,normal,candle/1.png,\ncandle,test,anomaly,candle/2.jpg,x\n",
        b'{"meta": {"normal_class": "OK"}, "train": [{"image_path": "1.png"}], "test": 1}',
        b'{"train": [{"image_path": "1.png", "mask_path": 7}], "test": [{"image_path": "2.jpg"}]}',
        b"[[[",
        b"\xff",
    ]
) | st.binary(max_size=80)
_FOLDERS = st.dictionaries(_PATHS, _TABLES, max_size=12)
_CHOICES = st.builds(
    Conversion,
    good=st.frozensets(_WORDS, max_size=2),
    only_defective=st.booleans(),
    layout=st.sampled_from(["", "unknown", *LAYOUTS]),
    category=st.sampled_from(["", "candle", "x"]),
    bad=st.frozensets(_WORDS, max_size=2),
    masks=st.frozensets(_WORDS, max_size=2),
)


@settings(deadline=None, max_examples=300)
@given(_FOLDERS, _CHOICES)
def test_any_folder_is_arranged_or_refused(files: Mapping[str, bytes], choices: Conversion) -> None:
    try:
        arranged = plan(files, choices, lambda path, most: files[path][:most])
    except NotADataset as refusal:
        assert str(refusal)
        return
    paths = [file.path for file in arranged.files]
    assert len(set(paths)) == len(paths)
    for file in arranged.files:
        assert str(LayoutPath.parse(file.path)) == file.path
        assert file.source in files
        assert file.original.encode() is not None
    assert {file.source for file in arranged.files}.isdisjoint(each.source for each in arranged.left_out)
    for each in arranged.left_out:
        assert each.reason
