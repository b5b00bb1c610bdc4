# SPDX-License-Identifier: Apache-2.0
import io
import json
from collections.abc import Iterable, Mapping

import pytest

from blemish.v1.dataset_pb2 import ClassCount, Dataset, UploadImagesResponse
from blemish_client.client import Client
from blemish_client.transport.upload import ImageContent
from blemish_console.data import uploads
from blemish_console.data.uploads import MalformedUpload, Offer, OnlyDefective, RefusedUpload, UploadPlan

FOLDER = ("train/good/0.png", "test/good/1.png", "test/crack/2.png", "ground_truth/crack/2_mask.png")


def _order(path: str) -> tuple[int, str]:
    return ("train", "test", "ground_truth").index(path.partition("/")[0]), path


class UploadServer(Client):
    """A client of a server whose dataset has test images of some classes."""

    def __init__(self, classes: Iterable[str] = ()) -> None:
        super().__init__("127.0.0.1:1")
        self._classes = classes
        self.received: list[ImageContent] = []

    def dataset(self, name: str) -> Dataset:
        return Dataset(test_images=[ClassCount(class_name=each, images=1) for each in self._classes])

    def upload_images(
        self, dataset: str, images: Iterable[ImageContent], *, replace: bool = False
    ) -> UploadImagesResponse:
        self.received += images
        return UploadImagesResponse(stored=len(self.received))


def planned(
    paths: Iterable[str],
    folder: str = "",
    *,
    contents: Mapping[str, bytes] | None = None,
    size: int = 10,
    limit: int = 0,
    is_only_defective: bool = False,
) -> UploadPlan:
    files = {path: (number, size) for number, path in enumerate(paths)}
    offer = Offer("tile", folder, files, is_only_defective)
    return uploads.plan_upload(UploadServer(), offer, contents or {}, limit)


def test_files_of_a_folder_keep_their_places() -> None:
    plan = planned([*FOLDER, "train/good/notes.txt", "train/good/.DS_Store"])
    assert [path for _, path, _ in plan.files] == sorted(FOLDER, key=_order)
    assert all(FOLDER[number] == path for number, path, _ in plan.files)
    assert [(path, expected) for path, _, expected in plan.left_out] == [("train/good/notes.txt", True)]


def test_files_of_one_class_are_stored_under_safe_names() -> None:
    plan = planned(["a.png", "<b> c.png", "sub/a.png", "notes.txt"], "test/crack")
    paths = {number: (path, original) for number, path, original in plan.files}
    assert paths[0] == ("test/crack/a.png", "")
    assert paths[1][1] == "test/crack/<b> c.png"
    assert paths[1][0].startswith("test/crack/b-c--")
    assert paths[2][0] != paths[0][0]
    assert [(path, expected) for path, _, expected in plan.left_out] == [("notes.txt", True)]


def test_folder_without_a_known_layout_is_refused_with_the_remedy() -> None:
    with pytest.raises(RefusedUpload, match="Choose a class"):
        planned(["a.png", "b.png"])


def test_test_images_of_which_none_is_good_must_be_confirmed() -> None:
    paths = ["train/good/0.png", "test/crack/1.png"]
    with pytest.raises(OnlyDefective, match="crack"):
        planned(paths)
    assert len(planned(paths, is_only_defective=True).files) == 2


def test_good_test_images_of_the_dataset_count() -> None:
    files = {"train/good/0.png": (0, 1), "test/crack/1.png": (1, 1)}
    plan = uploads.plan_upload(UploadServer(["good"]), Offer("tile", "", files), {}, 0)
    assert len(plan.files) == 2


def test_image_above_the_limit_of_the_server_is_left_out_with_both_sizes() -> None:
    plan = planned(["a.png"], "train/good", size=33_554_433, limit=33_554_432)
    assert plan.files == []
    [(path, reason, expected)] = plan.left_out
    assert (path, expected) == ("a.png", False)
    assert "33,554,433" in reason
    assert "33,554,432" in reason


def test_table_of_the_images_is_read_before_their_places_are_planned() -> None:
    paths = ["images.csv", "photos/1.png", "photos/2.png"]
    assert planned(paths).needed == [0]
    table = b"path,class\nphotos/1.png,good\nphotos/2.png,crack\n"
    plan = planned(paths, contents={"images.csv": table}, is_only_defective=True)
    assert plan.layout == "csv"
    assert len(plan.files) == 2


def test_too_many_files_are_refused() -> None:
    with pytest.raises(RefusedUpload, match="at most 50,000 files"):
        planned([f"{n}.png" for n in range(uploads.MAX_FILES + 1)], "train/good")


def test_list_of_files_left_out_is_cut_but_counted() -> None:
    found = planned([f"{n}.txt" for n in range(1500)], "train/good").to_json()
    assert (len(found["left_out"]), found["left_out_count"], found["expected_count"]) == (1000, 1500, 1500)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"files": 3}',
        '{"files": [["a.png"]]}',
        '{"files": [["a.png", -1]]}',
        '{"files": [["a.png", true]]}',
        '{"files": [[1, 1]]}',
    ],
)
def test_malformed_offer_is_rejected(text: str) -> None:
    with pytest.raises(MalformedUpload):
        uploads.parse_offer(text.encode())


@pytest.mark.parametrize(
    "files",
    [[], [["a", "", 1]] * 33, [["a", "", 2]], [["a", 1]], [["a", "", -1]], "a", [["a" * 4097, "", 1]]],
)
def test_malformed_batch_is_rejected(files: object) -> None:
    with pytest.raises(MalformedUpload):
        uploads.parse_batch(json.dumps({"dataset": "tile", "files": files}).encode(), 1)


def test_batch_is_split_by_the_sizes_of_its_files() -> None:
    text = json.dumps({"dataset": "tile", "files": [["a", "A", 2], ["b", "", 3]], "replace": True}).encode()
    server = UploadServer()
    uploads.send_batch(server, uploads.parse_batch(text, 5), io.BytesIO(b"12345"))
    assert server.received == [ImageContent("a", b"12", "A"), ImageContent("b", b"345", "")]


def test_name_that_is_not_valid_unicode_can_be_sent() -> None:
    offer, _ = uploads.parse_offer(rb'{"dataset": "tile", "folder": "", "files": [["a\ud800.png", 1]]}')
    [path] = offer.files
    assert path.encode().decode() == path
