# SPDX-License-Identifier: Apache-2.0
"""The items of an index that people labelled, and the defect class that the nearest of them suggest.

The classifier is a weighted nearest-neighbour rule (Dudani, IEEE Transactions on Systems, Man, and
Cybernetics 6, 1976) on the embeddings of a model version. Weights are reciprocal ranks, so that nothing
depends on the scale of similarities, which differs between versions. See docs/benchmarks.md for the
accuracy on real surfaces, also of other numbers of neighbours and weights.

An image that is farther from all labelled items than they are from each other shows a defect of no known
class. The limit is a conformal one, as that of ``calibration``: a defect of a known class exceeds it with a
probability of at most ``DISTANT_RATE``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from uuid import UUID

import numpy as np

from blemish_core.search.query import Vector

NO_CLASS = ""
"""Class of items that are not defects: false alarms and good surfaces."""
NEIGHBORS = 7
"""Number of nearest labelled items that are counted."""
MIN_CONFIRMED = 3
"""Fewest confirmed items by which a defect is named."""
DISTANT_RATE = 0.05
"""Share of defects of known classes that may be taken for defects of no known class."""
_MAX_LEFT_OUT = 512
"""Labelled items that are compared with all others to find how near they are to each other."""


class Consensus(StrEnum):
    """The agreement of the nearest labelled items on a defect class, or the reason why it is unknown."""

    UNANIMOUS = "unanimous"
    """All are of the class."""
    MAJORITY = "majority"
    """More than half of the weight is of the class."""
    DIVIDED = "divided"
    """The class has the largest part of the weight, but not more than half."""
    FALSE_ALARMS = "false_alarms"
    """Unknown: false alarms and good surfaces have the largest part of the weight."""
    DISTANT = "distant"
    """Unknown: no labelled item is as near as labelled items are to each other."""
    TOO_FEW_LABELS = "too_few_labels"
    """Unknown: the index has too few confirmed items with a class, or does not exist."""
    UNAVAILABLE = "unavailable"
    """Unknown: the labels could not be read in time."""


@dataclass(frozen=True)
class DefectClass:
    """The most likely class of a defect."""

    consensus: Consensus
    name: str = ""
    """Class as a person typed it; empty if it is unknown."""
    share: float = 0.0
    """Weight of the class among the nearest labelled items, 0 to 1."""
    neighbors: int = 0
    """Number of nearest labelled items that were counted."""


@dataclass(frozen=True)
class LabelledItems:
    """The N labelled items of an index, and their embeddings."""

    ids: tuple[UUID, ...] = ()
    classes: tuple[str, ...] = ()
    """Class of each confirmed item; ``NO_CLASS`` for false alarms and good surfaces."""
    vectors: Vector = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(N, D), rows of length 1."""
    nearness: float = -math.inf
    """Cosine similarity that a defect of a known class has to one of the items at least."""

    @classmethod
    def of(cls, items: Iterable[tuple[UUID, str, Vector]]) -> "LabelledItems":
        """Return the items given by id, class and embedding of length 1.

        This takes up to a second for thousands of items.
        """
        rows = list(items)
        if not rows:
            return cls()
        ids, classes, vectors = zip(*rows, strict=True)
        stacked = np.stack(vectors)
        return cls(ids, classes, stacked, _nearness(stacked))

    def classify(self, embedding: Vector) -> DefectClass:
        """Return the most likely class of a defect.

        Args:
            embedding: embedding of shape (D,) and length 1. One of another shape belongs to another index,
                so that its class is unknown.
        """
        if self._confirmed < MIN_CONFIRMED or embedding.shape != self.vectors.shape[1:]:
            return DefectClass(Consensus.TOO_FEW_LABELS)
        similarities = self.vectors @ embedding
        nearest = np.argsort(-similarities, kind="stable")[:NEIGHBORS]
        if similarities[nearest[0]] < self.nearness:
            return DefectClass(Consensus.DISTANT, neighbors=len(nearest))
        return _elect([self.classes[row] for row in nearest])

    @cached_property
    def _confirmed(self) -> int:
        return sum(name != NO_CLASS for name in self.classes)


def _elect(classes: Sequence[str]) -> DefectClass:
    """Return the class that the nearest items, given by their classes in order, suggest."""
    weights: dict[str, float] = {}
    for rank, name in enumerate(classes, 1):
        weights[name] = weights.get(name, 0.0) + 1 / rank
    count, total = len(classes), sum(weights.values())
    # Among classes of equal weight the one of the nearest item comes first.
    name = max(weights, key=lambda each: weights[each])
    if name == NO_CLASS:
        return DefectClass(Consensus.FALSE_ALARMS, neighbors=count)
    if len(weights) == 1:
        return DefectClass(Consensus.UNANIMOUS, name, 1.0, count)
    share = weights[name] / total
    return DefectClass(Consensus.MAJORITY if share > 0.5 else Consensus.DIVIDED, name, share, count)


def _nearness(vectors: Vector) -> float:
    """Return the similarity below which the rate of labelled items is that have a less similar neighbour.

    With too few items for the rate there is no limit.
    """
    sample = np.arange(0, len(vectors), math.ceil(len(vectors) / _MAX_LEFT_OUT))
    similarities = vectors[sample] @ vectors.T
    similarities[np.arange(len(sample)), sample] = -np.inf
    nearest = np.sort(similarities.max(axis=1))
    allowed = math.floor(round(DISTANT_RATE * (len(sample) + 1), 9))
    return float(nearest[allowed - 1]) if allowed else -math.inf
