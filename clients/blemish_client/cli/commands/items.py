# SPDX-License-Identifier: Apache-2.0
"""``blemish items``: list the indexed images of a model."""

from itertools import islice
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from blemish.v1.search_pb2 import Hit
from blemish_client.cli.choices import SortChoice
from blemish_client.cli.failures import Failure
from blemish_client.cli.groups import has_subcommand
from blemish_client.cli.items import image_text, item_condition, item_fields, label_text, short_ids
from blemish_client.cli.options import (
    Cameras,
    ItemLabels,
    ItemVerdict,
    Json,
    Model,
    Since,
    Until,
    WhereItems,
)
from blemish_client.cli.output import ABSENT, emit, number, table, verdict, when
from blemish_client.cli.regions import regions_line
from blemish_client.cli.session import Session
from blemish_layouts.names import printable

group = typer.Typer(help="List the indexed images of a model.", invoke_without_command=True)

Sort = Annotated[
    SortChoice | None,
    typer.Option("--sort", help="Sort by time, newest first, or by score, highest first."),
]
Reverse = Annotated[bool, typer.Option("--reverse", help="Reverse the order of --sort.")]
Limit = Annotated[int | None, typer.Option("-n", "--limit", min=1, help="Number of items.")]
_MISSING_MODEL = "--model is missing; name the model with -m MODEL"


@group.callback()
def items(
    ctx: typer.Context,
    model: Model = "",
    where: WhereItems = "",
    cameras: Cameras = None,
    since: Since = "",
    until: Until = "",
    verdict: ItemVerdict = None,
    labels: ItemLabels = None,
    sort: Sort = None,
    reverse: Reverse = False,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    if has_subcommand(ctx):
        return
    if not model:
        raise Failure(_MISSING_MODEL)
    list_(ctx, model, where, cameras, since, until, verdict, labels, sort, reverse, limit, as_json)


@group.command("list")
def list_(
    ctx: typer.Context,
    model: Model,
    where: WhereItems = "",
    cameras: Cameras = None,
    since: Since = "",
    until: Until = "",
    verdict: ItemVerdict = None,
    labels: ItemLabels = None,
    sort: Sort = None,
    reverse: Reverse = False,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List the indexed images of a model, also as `blemish items -m MODEL`.

    Each has a short id, which other commands take in place of the full name.

    Example: blemish items list -m tile-patchcore --sort score --since 8h --label unlabelled
    """
    if reverse and sort is None:
        raise Failure("--reverse has no order to reverse; add --sort time or --sort score")
    session = Session.of(ctx)
    condition = item_condition(
        where, cameras=cameras, since=since, until=until, verdict=verdict, labels=labels
    )
    order = "" if sort is None else f"{sort}{'' if reverse else ' desc'}"
    with session.client() as client:
        found = islice(client.items(model, where=condition, order_by=order), limit)
        if as_json:
            for item in found:
                emit(item_fields(item))
            return
        listed = list(found)
    session.out.print(_items_table(listed) if listed else "no indexed image matches")


@group.command()
def show(
    ctx: typer.Context,
    item: Annotated[
        str, typer.Argument(metavar="ITEM", help="Indexed item: items/UUID, its first 4 digits or latest.")
    ],
    model: Model,
    as_json: Json = False,
) -> None:
    """Show one indexed image with its label, its origin and its regions.

    Example: blemish items show latest -m tile-patchcore
    """
    session = Session.of(ctx)
    with session.client() as client:
        found = client.item(item, model)
    if as_json:
        emit(item_fields(found))
        return
    rows = table("field", "value")
    for name, value in (
        ("item", found.item),
        ("time", when(found.time)),
        ("camera", found.camera),
        ("verdict", verdict(found.verdict)),
        ("score", number(found.score)),
        ("p-value", number(found.p_value)),
        ("label", label_text(found)),
        ("class", found.class_name),
    ):
        rows.add_row(name, value if name == "verdict" else escape(printable(value)) or ABSENT)
    rows.add_row("image", image_text(found))
    rows.add_row("regions", regions_line(found.regions) or ABSENT)
    session.out.print(rows)


def _items_table(items: list[Hit]) -> Table:
    ids = short_ids(items)
    has_classes = any(item.class_name for item in items)
    classes = ["class"] if has_classes else []
    rows = table("item", "time", "score", "verdict", "label", "camera", *classes, "image", right=("score",))
    for column in rows.columns[:4]:
        column.no_wrap = True
    for item in items:
        rows.add_row(
            ids[item.item],
            when(item.time),
            number(item.score),
            verdict(item.verdict),
            escape(printable(label_text(item))) or ABSENT,
            escape(printable(item.camera)) or ABSENT,
            *([escape(printable(item.class_name))] if has_classes else []),
            image_text(item),
        )
    return rows
