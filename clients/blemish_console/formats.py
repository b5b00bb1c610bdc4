# SPDX-License-Identifier: Apache-2.0
"""Numbers, sizes, times and names as texts, as the command line writes them."""

from blemish.v1.search_pb2 import Hit
from blemish_client.cli.output import ABSENT, clock, duration, log_line, number, share, size, when
from blemish_client.names import short

__all__ = ["ABSENT", "clock", "duration", "item_title", "log_line", "number", "share", "size", "when"]


def item_title(item: Hit) -> str:
    """Return the name of an indexed image: its own, its path in a dataset, or the start of its id."""
    if item.name:
        return item.name
    if item.dataset:
        return f"{short(item.dataset)}: {item.original_path or item.path}"
    return short(item.item)[:8]
