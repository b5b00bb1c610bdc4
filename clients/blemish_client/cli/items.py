# SPDX-License-Identifier: Apache-2.0
"""Indexed items on the command line: short ids, the fields that tables show, and filters from options."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.markup import escape

from blemish.v1.search_pb2 import LABEL_NONE, LABEL_UNSPECIFIED, Hit, Label
from blemish_client.cli.choices import ItemLabelChoice, VerdictChoice, spell
from blemish_client.cli.output import ABSENT, plain
from blemish_client.cli.times import local, parse_start, parse_time, with_local_zone
from blemish_client.names import item_name, short
from blemish_client.search import similarity
from blemish_layouts.names import printable

_SHORT_DIGITS = 8
_ID = re.compile(r"[0-9a-f][0-9a-f-]{3,35}|latest", re.ASCII | re.IGNORECASE)


def stored_item(text: str) -> str | None:
    """Return the name of the item that an argument means, or None if it means a file.

    An id without ``items/`` means an item unless there is a file of that name.
    """
    if text.startswith("items/"):
        return text
    return item_name(text) if _ID.fullmatch(text) and not Path(text).exists() else None


def short_ids(items: Iterable[Hit]) -> dict[str, str]:
    """Return the first digits of each item's id, at least 8, as many as no other listed item shares.

    Commands and the server take such an id in place of the full name.
    """
    names = sorted({item.item for item in items})
    ids = [short(name) for name in names]
    found: dict[str, str] = {}
    for place, (name, id) in enumerate(zip(names, ids, strict=True)):
        neighbors = ids[max(0, place - 1) : place] + ids[place + 1 : place + 2]
        shared = max((_shared_digits(id, other) for other in neighbors), default=0)
        found[name] = id[: max(_SHORT_DIGITS, shared + 1)].rstrip("-")
    return found


def _shared_digits(id: str, other: str) -> int:
    """Return the number of equal characters at the start of two ids."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(id, other, strict=False)))


def is_unlabelled(item: Hit) -> bool:
    return item.label in (LABEL_UNSPECIFIED, LABEL_NONE)


def label_text(item: Hit) -> str:
    """Return the label of an item and the class of a confirmed defect, empty without a label."""
    name = "" if is_unlabelled(item) else spell(Label, item.label)
    return " ".join(filter(None, (name, item.label_class)))


def image_text(item: Hit) -> str:
    """Return the dataset and original path of an image, or the name of a kept frame, as markup."""
    if not item.dataset:
        return escape(printable(item.name)) or ABSENT
    return escape(f"{short(item.dataset)}/{printable(item.original_path or item.path)}")


def item_fields(item: Hit) -> dict[str, Any]:
    """Return an item for JSON without pictures, and with the one similarity that tables show."""
    fields = plain(item)
    fields.pop("thumbnail", None)
    if "match" in fields:
        fields["similarity"] = similarity(item)
        for name in ("similarity", "heat"):
            fields["match"].pop(name, None)
    return fields


def item_condition(
    where: str = "",
    *,
    cameras: Sequence[str] | None = None,
    since: str = "",
    until: str = "",
    verdict: VerdictChoice | None = None,
    labels: Sequence[ItemLabelChoice] | None = None,
    equal: Mapping[str, str] | None = None,
) -> str:
    """Return the filter that options describe together.

    ``where`` comes first, so that the columns in its errors count from its start. It needs no parentheses,
    as OR binds tighter than AND.

    Args:
        where: filter condition, whose times without a zone are local.
        cameras: cameras, of which an item has one.
        since: earliest time, as ``parse_start`` reads it.
        until: time after the last one, as ``parse_time`` reads it.
        verdict: verdict at the time of indexing.
        labels: labels, of which an item has one.
        equal: further fields with their value.

    Raises:
        Failure: if a time is not one.
    """
    parts = [with_local_zone(where.strip())] if where.strip() else []
    if cameras:
        parts.append(_one_of("camera", map(_quoted, cameras)))
    if start := parse_start(since, "--since"):
        parts.append(f"time >= {local(start)}")
    if end := parse_time(until, "--until"):
        parts.append(f"time < {local(end)}")
    if verdict is not None:
        parts.append(f"verdict = {verdict}")
    if labels:
        unlabelled = ItemLabelChoice.UNLABELLED, ItemLabelChoice.NONE
        parts.append(_one_of("label", ("none" if label in unlabelled else label for label in labels)))
    parts += [f"{field} = {value}" for field, value in (equal or {}).items()]
    return " AND ".join(parts)


def _one_of(field: str, values: Iterable[str]) -> str:
    comparisons = [f"{field} = {value}" for value in dict.fromkeys(values)]
    return comparisons[0] if len(comparisons) == 1 else f"({' OR '.join(comparisons)})"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
