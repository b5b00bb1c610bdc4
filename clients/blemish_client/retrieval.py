# SPDX-License-Identifier: Apache-2.0
"""Quality of search: precision at k and recall, with each indexed image as the query in turn."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from blemish.v1.search_pb2 import Hit

GOOD = "good"
DEPTHS = (1, 5, 10)

SearchFunction = Callable[[str, int, bool], Sequence[Hit]]
"""A search by an item's name, with the number of hits and True for exact search."""


@dataclass(frozen=True)
class SearchQuality:
    """Means over the queries.

    Precision at k is the share of relevant hits among the best k. If fewer than k images are relevant, k is
    that number.
    """

    queries: int
    defective: int
    """Number of queries with a defect."""
    sides: Mapping[int, float]
    """Precision by k, where good images are relevant to good ones and defective to defective ones."""
    classes: Mapping[int, float]
    """Precision by k of defective queries, where images of the same class are relevant. Empty if none."""
    recall: float
    """Share of the exact hits that the index finds, at the largest k."""


def evaluate(
    items: Iterable[Hit], search: SearchFunction, on_query: Callable[[int, int], None]
) -> SearchQuality:
    """Search by each item that has a class. The item itself is not among its hits.

    Args:
        items: indexed items.
        search: search function.
        on_query: called with the number of finished queries and their total.

    Raises:
        ValueError: if fewer than two items have a class.
    """
    known = [item for item in items if item.class_name]
    if len(known) < 2:
        raise ValueError(f"only {len(known)} indexed images have a class; two are needed")
    class_sizes = Counter(item.class_name for item in known)
    goods = class_sizes[GOOD]
    sides: dict[int, list[float]] = {k: [] for k in DEPTHS}
    classes: dict[int, list[float]] = {k: [] for k in DEPTHS}
    recalls = []
    for done, item in enumerate(known):
        on_query(done, len(known))
        is_good = item.class_name == GOOD
        hits = search(item.item, max(DEPTHS), False)
        same_side = [(hit.class_name == GOOD) == is_good for hit in hits]
        same_class = [hit.class_name == item.class_name for hit in hits]
        others = (goods if is_good else len(known) - goods) - 1
        for k in DEPTHS:
            _add_precision(sides[k], same_side, min(k, others))
            if not is_good:
                _add_precision(classes[k], same_class, min(k, class_sizes[item.class_name] - 1))
        exact = {hit.item for hit in search(item.item, max(DEPTHS), True)}
        recalls.append(len(exact & {hit.item for hit in hits}) / len(exact))
    on_query(len(known), len(known))
    return SearchQuality(
        len(known),
        len(known) - goods,
        {k: _mean(shares) for k, shares in sides.items() if shares},
        {k: _mean(shares) for k, shares in classes.items() if shares},
        _mean(recalls),
    )


def _add_precision(shares: list[float], relevant: Sequence[bool], k: int) -> None:
    """Add the precision at ``k``. Skip a query without relevant images."""
    if k > 0:
        shares.append(sum(relevant[:k]) / k)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
