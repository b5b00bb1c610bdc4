# SPDX-License-Identifier: Apache-2.0
"""The scores by which a version is calibrated and tested."""

from dataclasses import dataclass, field

from blemish.v1.model_pb2 import ListScoresResponse


@dataclass
class ModelScores:
    """The scores behind the figures of a version, each list in ascending order."""

    held_out: list[float] = field(default_factory=list)
    """Scores of held-out good images."""
    by_class: dict[str, list[float]] = field(default_factory=dict)
    """Scores of the test images of the training, by class; empty if it had none."""

    def add(self, message: ListScoresResponse) -> None:
        """Add the scores of a message."""
        scores = self.held_out if message.held_out else self.by_class.setdefault(message.class_name, [])
        scores.extend(message.scores)
