# SPDX-License-Identifier: Apache-2.0
"""A model whose mask moves with the part, from its training to its answers and to another server."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.integration.conftest import RunningStack
from tests.support.moving_part import STILL, Frame, seen, texture

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL, Region
from blemish.v1.image_pb2 import Image as ImageMessage
from blemish.v1.inspection_pb2 import STREAM_POLICY_BLOCK, Inspection
from blemish_client import Client, FrameResult
from blemish_client.errors import FailedPrecondition, InvalidArgument, NotFound
from blemish_core.imaging.alignment import Motion

SHAPE = (128, 160)
TOP, LEFT, HEIGHT, WIDTH = 40, 90, 28, 40
"""Place of the ignored code on the part, in the reference."""
FAR = Motion(16, -10, 4)
"""A motion within those of the training images."""


def frame(motion: Motion, seed: int, *, code: bool = True, defect: bool = False) -> Frame:
    """Return a frame of the part with noise, another code for each seed, and optionally a defect."""
    random, codes = np.random.default_rng(seed).spawn(2)
    surface = texture(0)
    top, left = (512 - SHAPE[0]) // 2, (512 - SHAPE[1]) // 2
    if code:
        noise = codes.integers(0, 256, (HEIGHT - 8, WIDTH - 8, 3), dtype=np.uint8)
        surface[top + TOP + 4 : top + TOP + HEIGHT - 4, left + LEFT + 4 : left + LEFT + WIDTH - 4] = noise
    if defect:
        surface[top + 84 : top + 100, left + 40 : left + 56] = random.integers(0, 256, (16, 16, 3))
    shown = seen(surface, motion, SHAPE) + random.normal(0, 3, (*SHAPE, 3))
    return shown.clip(0, 255).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def mask() -> bytes:
    looks = np.full(SHAPE, 255, np.uint8)
    looks[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] = 0
    return encoded(looks)


def motions(seed: int, number: int) -> list[Motion]:
    random = np.random.default_rng(seed)
    return [
        Motion(random.uniform(-20, 20), random.uniform(-14, 14), random.uniform(-6, 6))
        for _ in range(number)
    ]


@pytest.fixture(scope="module")
def parts(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Upload images of a part that moves."""
    folder = tmp_path_factory.mktemp("parts")
    trained = [STILL, *motions(1, 31)]
    shown = {f"train/good/{number:03}.png": motion for number, motion in enumerate(trained)}
    shown |= {f"test/good/{number:03}.png": motion for number, motion in enumerate(motions(2, 4))}
    for number, (path, motion) in enumerate(shown.items()):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(frame(motion, number)))
    with Client(stack.address) as client:
        client.create_dataset("parts")
        client.upload("parts", folder)
    return "parts"


@pytest.fixture(scope="module")
def aligned(stack: RunningStack, parts: str) -> str:
    with Client(stack.address) as client:
        job = client.wait(client.train(parts, model_id="aligned", mask=mask(), align=True))
        assert job.error == ""
        assert job.train.mask.alignment.reference == "train/good/000.png"
        return job.result.model_version


def assert_motion(inspection: Inspection, motion: Motion) -> None:
    found = inspection.alignment
    assert (found.dx, found.dy) == pytest.approx((motion.dx_px, motion.dy_px), abs=1)
    assert found.angle == pytest.approx(motion.angle_deg, abs=0.5)
    assert 0.5 < found.quality <= 1


def test_ignored_code_changes_no_verdict_where_the_part_moved(client: Client, aligned: str) -> None:
    for number, motion in enumerate((STILL, FAR, Motion(-15, 9, -4))):
        printed = client.score(encoded(frame(motion, 100 + number)), aligned)
        plain = client.score(encoded(frame(motion, 100 + number, code=False)), aligned)
        assert printed.score == pytest.approx(plain.score, rel=0.1)
        assert printed.verdict == VERDICT_NORMAL
        assert_motion(printed, motion)
        assert list(printed.notes) == []


def test_defect_is_found_where_it_is_in_the_frame(client: Client, aligned: str) -> None:
    inspection = client.score(encoded(frame(FAR, 200, defect=True)), aligned, regions=True)
    assert inspection.verdict == VERDICT_ANOMALOUS
    x, y = FAR.matrix(SHAPE) @ (48, 92, 1)
    box = inspection.regions[0].box
    assert box.left <= x <= box.left + box.width
    assert box.top <= y <= box.top + box.height


def test_frame_that_cannot_be_aligned_has_a_note_once_a_stream(client: Client, aligned: str) -> None:
    strange = encoded(seen(texture(9), STILL, SHAPE))
    inspection = client.score(strange, aligned)
    assert not inspection.HasField("alignment")
    (note,) = inspection.notes
    assert "could not be aligned, so the mask was not moved" in note
    frames = [strange, strange, encoded(frame(FAR, 300)), strange]
    results = client.stream(frames, aligned, policy=STREAM_POLICY_BLOCK)
    answers = [each.answer.inspection for each in results if isinstance(each, FrameResult)]
    assert [len(each.notes) for each in answers] == [1, 0, 0, 1]
    assert [each.HasField("alignment") for each in answers] == [False, False, True, False]
    assert_motion(answers[2], FAR)


def test_region_of_a_frame_is_aligned_by_the_whole_frame(client: Client, aligned: str) -> None:
    region = Region(left=60, top=10, width=80, height=80)
    image = ImageMessage(encoded=encoded(frame(FAR, 400)), region=region)
    assert_motion(client.score(image, aligned), FAR)


def test_aligned_version_travels_to_another_server(client: Client, aligned: str, tmp_path: Path) -> None:
    card = client.model(aligned)
    assert card.mask.alignment.reference == "train/good/000.png"
    assert card.training["alignment"].startswith("32 of 32 training images")
    assert b"The mask moves with the part" in client.report(aligned)
    client.export_model(aligned, tmp_path / "aligned.blemish")
    imported = client.import_model(tmp_path / "aligned.blemish", model_id="aligned-copy")
    assert imported.mask == card.mask
    there, here = (client.score(encoded(frame(FAR, 500)), model) for model in ("aligned-copy", aligned))
    assert (there.score, there.alignment) == (here.score, here.alignment)
    client.delete_model("aligned-copy")


def test_unsuitable_alignment_is_refused_before_the_job_is_accepted(
    client: Client, parts: str, tmp_path: Path
) -> None:
    jobs = len(list(client.jobs()))
    with pytest.raises(InvalidArgument, match=r"train\.mask is empty") as caught:
        client.train(parts, model_id="aligned", align=True)
    assert caught.value.field == "train.mask.alignment"
    with pytest.raises(NotFound, match=r"has no train/good/999\.png"):
        client.train(parts, model_id="aligned", mask=mask(), reference="999.png")
    client.create_dataset("flat")
    folder = tmp_path / "train" / "good"
    folder.mkdir(parents=True)
    for number in range(8):
        (folder / f"{number}.png").write_bytes(encoded(np.full(SHAPE, 90 + number, np.uint8)))
    client.upload("flat", tmp_path)
    with pytest.raises(FailedPrecondition, match="too uniform where the mask looks"):
        client.train("flat", model_id="aligned", mask=mask(), align=True)
    client.delete_dataset("flat")
    assert len(list(client.jobs())) == jobs
