# SPDX-License-Identifier: Apache-2.0
"""``blemish items export`` and ``add-to``: copy indexed images to a folder or a dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.markup import escape
from rich.progress import Progress

from blemish.v1.dataset_pb2 import (
    ADDED_OUTCOME_DUPLICATE,
    ADDED_OUTCOME_LEFT_OUT,
    ADDED_OUTCOME_STORED,
    AddedItem,
)
from blemish.v1.search_pb2 import LABEL_NONE, LABEL_UNSPECIFIED, Hit
from blemish_client.cli.choices import SplitChoice
from blemish_client.cli.failures import PARTLY, Failure, print_error
from blemish_client.cli.item_files import ItemFolder
from blemish_client.cli.items import item_condition
from blemish_client.cli.options import (
    Cameras,
    DatasetArgument,
    ItemLabels,
    ItemVerdict,
    Json,
    Model,
    Since,
    Until,
    WhereItems,
)
from blemish_client.cli.output import emit, table
from blemish_client.cli.promotion import user_name
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.errors import BlemishError, NotFound
from blemish_client.names import short
from blemish_layouts.names import printable

_WORDS = {
    ADDED_OUTCOME_STORED: "added",
    ADDED_OUTCOME_DUPLICATE: "there already",
    ADDED_OUTCOME_LEFT_OUT: "left out",
}

Items = Annotated[
    list[str] | None,
    typer.Argument(metavar="ITEM", help="Indexed items: items/UUID, its first 4 digits or latest."),
]
All = Annotated[bool, typer.Option("--all", help="Take all items of the index.")]


def export(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for the files.")],
    model: Model,
    items: Items = None,
    where: WhereItems = "",
    cameras: Cameras = None,
    since: Since = "",
    until: Until = "",
    verdict: ItemVerdict = None,
    labels: ItemLabels = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Write the images of indexed items to a folder, with a JSON file of each item's fields.

    Images are written as they were received. Nothing in the folder is overwritten. If images are no longer
    stored, the others are written and the exit code is 7.

    Example: blemish items export evidence -m tile-patchcore --where "label = confirmed" --since 8h
    """
    session = Session.of(ctx)
    condition = item_condition(
        where, cameras=cameras, since=since, until=until, verdict=verdict, labels=labels
    )
    _check_choice(items or (), condition, everything=everything)
    new = missing = total = 0
    with session.client() as client, Progress(console=session.err, transient=True) as progress:
        found = _named(client, model, items) if items else list(client.items(model, where=condition))
        target = ItemFolder(folder) if found else None
        for item in progress.track(found, description="exporting"):
            assert target is not None
            total += 1
            try:
                image = client.item_image(item.item, model)
            except BlemishError as error:
                if not isinstance(error, NotFound) and error.code is not grpc.StatusCode.DATA_LOSS:
                    raise
                missing += 1
                print_error(f"{item.item} was not exported: {error.message}")
                if as_json:
                    emit({"item": item.item, "error": error.message})
                continue
            file, is_new = target.write(item, image)
            new += is_new
            if as_json:
                emit({"item": item.item, "file": str(file), "new": is_new})
    if not as_json:
        line = f"{folder}: {new} exported, {total - new - missing} there already, {missing} missing"
        session.out.print(line if total else "no indexed image matches", markup=False, soft_wrap=True)
    if missing:
        raise typer.Exit(PARTLY)


def add_to(
    ctx: typer.Context,
    dataset: DatasetArgument,
    model: Model,
    items: Items = None,
    split: Annotated[
        SplitChoice, typer.Option(help="Use of the images. Only good ones can be training images.")
    ] = SplitChoice.TEST,
    where: WhereItems = "",
    cameras: Cameras = None,
    since: Since = "",
    until: Until = "",
    verdict: ItemVerdict = None,
    labels: ItemLabels = None,
    everything: All = False,
    default_class: Annotated[
        str,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Class of confirmed defects that were labelled without one.",
            show_default="defect",
        ),
    ] = "",
    unlabelled_as: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Class of items without a label: good, or that of a defect. Default: leave them out.",
        ),
    ] = "",
    author: Annotated[
        str | None,
        typer.Option(help="Person who adds the images, kept with them.", show_default="current user"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy indexed items into the test or training images of a dataset.

    Items labelled good or false-alarm become good images. Confirmed defects become images of their class.
    An image that the dataset has is not stored again. If items could not be added, the exit code is 7.

    Example: blemish items add-to tile -m tile-patchcore --split test --where "label = confirmed"
    """
    session = Session.of(ctx)
    condition = item_condition(
        where, cameras=cameras, since=since, until=until, verdict=verdict, labels=labels
    )
    _check_choice(items or (), condition, everything=everything)
    names, unlabelled = list(items or ()), 0
    with session.client() as client:
        if not items:
            found = list(client.items(model, where=condition))
            chosen = [item for item in found if unlabelled_as or _is_labelled(item)]
            names, unlabelled = [item.item for item in chosen], len(found) - len(chosen)
        added = client.add_items(
            dataset,
            model,
            names,
            split=split.value,
            default_class=default_class,
            unlabelled_class=unlabelled_as,
            author=author if author is not None else user_name(),
        )
    if as_json:
        for each in added:
            emit(each)
    else:
        _print_added(session, f"{short(dataset)}/{split.value}", added)
        if not added and not unlabelled:
            session.out.print("no indexed image matches")
    if unlabelled:
        session.err.print(
            f"{unlabelled} items without a label were left out; label them with `blemish label`, or give "
            "their class with --unlabelled-as",
            markup=False,
            soft_wrap=True,
        )
    if any(each.outcome == ADDED_OUTCOME_LEFT_OUT for each in added):
        raise typer.Exit(PARTLY)


def _check_choice(items: Sequence[str], condition: str, *, everything: bool) -> None:
    """Raise a Failure if the options select nothing, or exclude each other."""
    if items and (condition or everything):
        raise Failure("items and a filter were given; give one of them")
    if everything and condition:
        raise Failure("--all and a filter were given; give one of them")
    if not (items or condition or everything):
        raise Failure("no items were chosen; name them, give a filter such as --since, or pass --all")


def _named(client: Client, model: str, names: Sequence[str]) -> list[Hit]:
    """Return items by their names, each of them once."""
    found = [client.item(name, model) for name in names]
    return list({item.item: item for item in found}.values())


def _is_labelled(item: Hit) -> bool:
    return item.label not in (LABEL_UNSPECIFIED, LABEL_NONE)


def _print_added(session: Session, target: str, added: Sequence[AddedItem]) -> None:
    rows = table("item", "outcome", "image")
    for each in added:
        rows.add_row(
            short(each.item),
            _WORDS.get(each.outcome, "unknown"),
            escape(printable(each.path or each.reason)),
        )
    if added:
        session.out.print(rows)
        counts = [
            f"{sum(each.outcome == outcome for each in added)} {word}" for outcome, word in _WORDS.items()
        ]
        session.out.print(f"{target}: {', '.join(counts)}", markup=False, soft_wrap=True)
