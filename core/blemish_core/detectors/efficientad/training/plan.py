# SPDX-License-Identifier: Apache-2.0
"""The plan of a training: how it starts and steps, and how many images and steps fit into its time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from blemish_core.detectors.efficientad.settings import EfficientAdSettings

SOLVED = "solved"
_PAPER_STEPS = 70_000
_FEW_STEPS = 10_000
_CPU_SECONDS = 300.0  # unless steps or time are set
# Before the steps, an image passes the networks, and so does a photograph for the penalty.
_PASSES_PER_IMAGE = 3
_IMAGES_SHARE = 0.4  # of the time
_FEWEST_IMAGES = 16


@dataclass(frozen=True)
class TrainingPlan:
    """The kind and the limits of a training."""

    solved: bool
    """True for a solved last layer without an autoencoder, false for the random start of the paper."""
    steps: int
    """Most steps."""
    seconds: float
    """Most time, infinite without a limit."""

    @classmethod
    def of(cls, settings: EfficientAdSettings, device: str) -> "TrainingPlan":
        """Return the plan for the settings: a short training on a CPU, or one of few steps, is solved for.

        A training on a CPU that is limited by neither steps nor time takes five minutes.
        """
        on_cpu = device.partition(":")[0] == "cpu"
        steps = settings.max_steps or _PAPER_STEPS
        seconds = settings.max_seconds or math.inf
        if on_cpu and not settings.max_steps and not settings.max_seconds:
            seconds = _CPU_SECONDS
        solved = settings.start == SOLVED if settings.start else on_cpu or steps < _FEW_STEPS
        return cls(solved, steps, seconds)

    def describe(self, images: int, image_s: float) -> str:
        """Return a sentence about the plan.

        Args:
            images: number of training images.
            image_s: time of the teacher for one of them.
        """
        begin = "a solved start without an autoencoder" if self.solved else "a random start"
        kind = "crops of their features" if self.solved else "one whole image each"
        limit = "without a time limit" if self.seconds == math.inf else f"within {self.seconds:.0f} s"
        return (
            f"{begin}, from {images} images, each of which takes the teacher {image_s:.2f} s; then at most "
            f"{self.steps} steps of {kind}, {limit}"
        )

    def affordable_images(self, image_s: float) -> float:
        """Return how many images there is time to learn from, given the teacher's time for one."""
        if not self.solved:
            return math.inf  # a step passes one image, so further images cost nothing
        return max(_FEWEST_IMAGES, self.seconds * _IMAGES_SHARE / (_PASSES_PER_IMAGE * max(image_s, 1e-9)))

    def duration_s(self, images: int, image_s: float, step_s: float) -> float:
        """Return about the longest time of the training, which may end earlier without progress.

        Args:
            images: number of images to learn from.
            image_s: time of the teacher for one of them.
            step_s: time of one step.
        """
        learned = min(images, self.affordable_images(image_s))
        passes = _PASSES_PER_IMAGE if self.solved else 1
        return min(self.seconds, passes * learned * image_s + self.steps * step_s)


class TrainingClock:
    """The time that a training has taken, over all of its attempts."""

    def __init__(self, spent_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began_s = now() - spent_s

    @property
    def spent_s(self) -> float:
        """Time since the start, in seconds."""
        return self._now() - self._began_s
