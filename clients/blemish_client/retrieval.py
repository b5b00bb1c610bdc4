# SPDX-License-Identifier: Apache-2.0
"""How well search finds the same kind of image: precision at k, each indexed image in turn as the query."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from blemish.v1.search_pb2 import Hit

GOOD = "good"
DEPTHS = (1, 5, 10)

Look = Callable[[str, int, bool], Sequence[Hit]]
"""Hits for an item's name: so many, and whether by comparing with every vector."""


@dataclass(frozen=True)
class Retrieval:
    """Means over the queries.

    Precision at k is the share of the right ones among the k best hits, or among as many as there are right
    ones, where those are fewer: nobody finds five cracks among three.
    """

    queries: int
    defective: int
    sides: Mapping[int, float]
    """Right is good for good and defective for defective: by k."""
    classes: Mapping[int, float]
    """Right is the same defect, for defective queries: by k; empty without any."""
    recall: float
    """Of the hits by comparing with every vector, at the deepest k: the share that the index finds."""


def evaluate(items: Iterable[Hit], look: Look, on_query: Callable[[int, int], None]) -> Retrieval:
    """Search by each item that has a class; itself is never among its hits.

    Args:
        items: those indexed.
        look: searches.
        on_query: hears how many are done, and of how many.

    Raises:
        ValueError: with fewer than two of them.
    """
    known = [item for item in items if item.class_name]
    if len(known) < 2:
        raise ValueError(f"{len(known)} indexed images have a class; precision takes two or more")
    of_class = Counter(item.class_name for item in known)
    goods = of_class[GOOD]
    sides: dict[int, list[float]] = {k: [] for k in DEPTHS}
    classes: dict[int, list[float]] = {k: [] for k in DEPTHS}
    recalls = []
    for done, item in enumerate(known):
        on_query(done, len(known))
        is_good = item.class_name == GOOD
        hits = look(item.item, max(DEPTHS), False)
        same_side = [(hit.class_name == GOOD) == is_good for hit in hits]
        same_class = [hit.class_name == item.class_name for hit in hits]
        others = (goods if is_good else len(known) - goods) - 1
        for k in DEPTHS:
            _add(sides[k], same_side, min(k, others))
            if not is_good:
                _add(classes[k], same_class, min(k, of_class[item.class_name] - 1))
        exact = {hit.item for hit in look(item.item, max(DEPTHS), True)}
        recalls.append(len(exact & {hit.item for hit in hits}) / len(exact))
    on_query(len(known), len(known))
    return Retrieval(
        len(known),
        len(known) - goods,
        {k: _mean(shares) for k, shares in sides.items() if shares},
        {k: _mean(shares) for k, shares in classes.items() if shares},
        _mean(recalls),
    )


def _add(shares: list[float], right: Sequence[bool], k: int) -> None:
    """Add the share of ``right`` among the ``k`` best; a query that nothing is like is none."""
    if k > 0:
        shares.append(sum(right[:k]) / k)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
