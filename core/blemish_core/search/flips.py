# SPDX-License-Identifier: Apache-2.0
"""Kept frames whose verdict another threshold would change, by their stored scores."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from blemish_core.platform.errors import NotFound, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import And, Comparison, equals
from blemish_core.search.item import CAMERA, Item
from blemish_core.search.search_index import SearchIndex

DEFAULT_PERIOD = timedelta(days=7)
DEFAULT_FLIPPED = 20
MAX_FLIPPED = 1000
"""Most frames that are returned."""


@dataclass(frozen=True)
class Flips:
    """The kept frames of a period whose verdict another threshold would change."""

    kept: int = 0
    """Number of kept frames of the period."""
    count: int = 0
    """Number of those whose verdict would change."""
    to_anomalous: bool = False
    """True if they would become anomalous, False if they would become normal."""
    items: tuple[Item, ...] = ()
    """Some of them, the newest first."""
    unavailable: str = ""
    """Reason for which no frames were compared."""


def find_flips(
    index: SearchIndex, version: ModelRef, before: float, after: float, period: timedelta, most: int
) -> Flips:
    """Compare two thresholds on the kept frames of a version.

    Args:
        index: the indexes.
        version: version whose scores the thresholds judge.
        before: threshold in force.
        after: threshold to compare it with.
        period: period until now from which frames are compared.
        most: largest number of items to return.
    """
    now, earliest = datetime.now(UTC), datetime.fromtimestamp(0, UTC)
    begin = now - min(period, now - earliest)
    kept = (equals("source", CAMERA), Comparison("time", ">=", begin))
    low, high = sorted((before, after))
    # A score equal to a threshold is normal.
    flipped = And((*kept, Comparison("score", ">", low), Comparison("score", "<=", high)))
    try:
        total = index.count(version, And(kept))
        count = index.count(version, flipped) if low < high else 0
        items = index.newest(version, flipped, most) if count else []
    except (NotFound, Unavailable) as error:
        return Flips(unavailable=str(error))
    return Flips(total, count, after < before, tuple(items))
