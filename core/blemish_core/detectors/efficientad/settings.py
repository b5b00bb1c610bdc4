# SPDX-License-Identifier: Apache-2.0
"""Settings of EfficientAD."""

from dataclasses import dataclass

from blemish_core.platform.errors import InvalidRequest

NAME = "efficientad"
MIN_IMAGES = 3
"""Two to train on, one to hold out."""
SIZES = ("small", "medium")
"""Sizes of the networks."""
CHANNELS = 384
"""Number of features of a patch."""
MARGIN = 4
"""Padding of the maps at each side, in patches, where the network's receptive field leaves the image."""
STRIDE = 4
"""Distance of two patches, in px of the input."""


@dataclass(frozen=True)
class EfficientAdSettings:
    """The settings of an EfficientAD training and of the model that it publishes."""

    size: str = "small"
    """Size of the networks, the paper's S or M."""
    input_size: int = 256
    """Side of the square input, px."""
    max_steps: int = 0
    """Most training steps; 0 allows the paper's 70,000."""
    max_seconds: float = 0.0
    """Most time for the training, without the calibration.

    0 sets no limit, except on a CPU, where a training without any limit takes five minutes.
    """
    start: str = ""
    """Initial weights of the student: "random" as in the paper, or "solved" for its last layer.

    Empty chooses "solved" if the steps are few or the device is a CPU.
    """

    def __post_init__(self) -> None:
        """Validate the settings.

        Raises:
            InvalidRequest: if a value is out of range.
        """
        if self.size not in SIZES:
            raise InvalidRequest(
                f"size is {self.size!r}, but must be small or medium", field="efficientad.size"
            )
        if not 256 <= self.input_size <= 1024 or self.input_size % 64:
            raise InvalidRequest(
                f"input_size is {self.input_size}, but must be 256 to 1024 in steps of 64",
                field="efficientad.input_size",
            )
        if not 0 <= self.max_steps <= 1_000_000:
            raise InvalidRequest(
                f"max_steps is {self.max_steps}, but must be 1 to 1,000,000", field="efficientad.max_steps"
            )
        if self.start not in ("", "random", "solved"):
            raise InvalidRequest(
                f"start is {self.start!r}, but must be random or solved", field="efficientad.start"
            )
        if not 0 <= self.max_seconds < float("inf"):  # false for NaN
            raise InvalidRequest(
                f"max_duration is {self.max_seconds} s, but must not be negative",
                field="efficientad.max_duration",
            )
