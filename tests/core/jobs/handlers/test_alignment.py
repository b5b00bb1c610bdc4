# SPDX-License-Identifier: Apache-2.0
"""The alignment of training images is measured before the training."""

from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from tests.support.job_reporter import RecordingReporter
from tests.support.moving_part import STILL, Frame, seen, texture

from blemish_core.datasets import Dataset
from blemish_core.imaging.alignment import Motion
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.jobs.handlers.alignment import describe_alignment
from blemish_core.jobs.handlers.publish import TrainingSet
from blemish_core.models.good_images import GoodImage
from blemish_core.platform.errors import FailedPrecondition

SHAPE = (120, 160)
REFERENCE = "train/good/0.png"


def part(motion: Motion) -> Frame:
    return seen(texture(0), motion, SHAPE)


def other(number: int) -> Frame:
    return seen(texture(10 + number), STILL, SHAPE)


def images(frames: list[Frame]) -> TrainingSet:
    dataset = Dataset("tile", "tile", datetime.now(UTC), len(frames), {}, 0, 0, "a" * 64)
    reads = [partial(np.array, each) for each in frames]
    good = [GoodImage(path=f"train/good/{number}.png", sha256="0" * 64) for number in range(len(frames))]
    return TrainingSet(dataset, reads, good, 0)


def mask() -> FrameMask:
    return FrameMask(np.ones(SHAPE, np.bool_)).aligned_to(part(STILL))


def test_largest_motion_is_described() -> None:
    reporter = RecordingReporter()
    shown = images([part(STILL), part(Motion(6, 8, 0)), part(Motion(0, 0, -2))])
    text = describe_alignment(mask(), shown, REFERENCE, reporter)
    assert text == "3 of 3 training images, moved by up to 10.0 px and 2.0 degrees"
    assert reporter.warnings == []
    assert reporter.progressed[-1] == ("align", 3, 3)


def test_images_that_cannot_be_aligned_are_named() -> None:
    reporter = RecordingReporter()
    text = describe_alignment(mask(), images([part(STILL), part(STILL), other(0)]), REFERENCE, reporter)
    assert text.startswith("2 of 3 training images")
    assert reporter.warnings == [
        "1 of 3 training images could not be aligned to train/good/0.png: train/good/2.png; their masks "
        "were not moved"
    ]


def test_training_fails_if_most_images_cannot_be_aligned() -> None:
    with pytest.raises(FailedPrecondition, match=r"2 of 3 training images .*; choose another reference"):
        describe_alignment(
            mask(), images([part(STILL), other(0), other(1)]), REFERENCE, RecordingReporter()
        )


def test_mask_that_does_not_move_needs_no_alignment() -> None:
    reporter = RecordingReporter()
    still = FrameMask(np.ones(SHAPE, np.bool_))
    assert describe_alignment(still, images([other(0)]), "", reporter) == ""
    assert describe_alignment(None, images([other(0)]), "", reporter) == ""
    assert reporter.progressed == []
