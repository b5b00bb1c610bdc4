# SPDX-License-Identifier: Apache-2.0
"""``blemish search``, ``items``, ``label``, ``evaluate-search``: past images, and those most like one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from blemish.v1 import search_pb2
from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.search_pb2 import Hit
from blemish_client.cli.failures import Failure
from blemish_client.cli.options import Json, Model
from blemish_client.cli.output import ABSENT, emit, number, plain, table, verdict, when
from blemish_client.cli.session import Session
from blemish_client.names import short
from blemish_client.retrieval import DEPTHS, evaluate
from blemish_client.transport.connection import TIMEOUT_S
from blemish_client.transport.requests import SearchOptions


class LabelName(StrEnum):
    """As the command line spells labels."""

    CONFIRMED = "confirmed"
    FALSE_ALARM = "false-alarm"
    GOOD = "good"
    NONE = "none"


_LABELS = {
    LabelName.CONFIRMED: search_pb2.LABEL_CONFIRMED,
    LabelName.FALSE_ALARM: search_pb2.LABEL_FALSE_ALARM,
    LabelName.GOOD: search_pb2.LABEL_GOOD,
    LabelName.NONE: search_pb2.LABEL_NONE,
}
_NAMES = {label: str(name) for name, label in _LABELS.items() if name is not LabelName.NONE}


def search(
    ctx: typer.Context,
    model: Model,
    query: Annotated[
        str | None, typer.Argument(metavar="[IMAGE]", help="A file, or items/UUID as hits name it.")
    ] = None,
    limit: Annotated[int, typer.Option("-k", "--limit", min=1, help="Number of hits.")] = 10,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Only of this; may be repeated.")
    ] = None,
    categories: Annotated[
        list[str] | None, typer.Option("--category", help="Only of this; may be repeated.")
    ] = None,
    datasets: Annotated[
        list[str] | None, typer.Option("--dataset", help="Only of this; may be repeated.")
    ] = None,
    where: Annotated[
        str, typer.Option(metavar="CONDITION", help='Such as: class = "crack" AND score > 12')
    ] = "",
    labelled: Annotated[
        str, typer.Option(metavar="CLASS", help="Like what people confirmed to be of it; without an image.")
    ] = "",
    like: Annotated[
        list[str] | None, typer.Option(metavar="ITEM", help="And like this; repeatable.")
    ] = None,
    unlike: Annotated[
        list[str] | None, typer.Option(metavar="ITEM", help="Unlike this; repeatable.")
    ] = None,
    group_by: Annotated[
        str, typer.Option(metavar="FIELD", help="In groups: dataset, category, class, camera, label ...")
    ] = "",
    diversity: Annotated[
        float | None,
        typer.Option(metavar="0..1", help="The higher, the more hits differ."),
    ] = None,
    region: Annotated[
        str,
        typer.Option(metavar="LEFT,TOP,WIDTH,HEIGHT", help="Find what is in this part of the image, px."),
    ] = "",
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Find what is under this mask of the image.")
    ] = None,
    page_token: Annotated[str, typer.Option(metavar="TOKEN", help="Where the page before ended.")] = "",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="How long it may take.")
    ] = TIMEOUT_S,
    montage: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Draw the query beside its hits.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find past images most like one: good for good, the same defect for a defect."""
    session = Session.of(ctx)
    options = SearchOptions(
        datasets=datasets or (),
        categories=categories or (),
        classes=classes or (),
        where=where,
        labelled=labelled,
        like=like or (),
        unlike=unlike or (),
        group_by=group_by,
        page_token=page_token,
        thumbnails=montage is not None,
    )
    if diversity is not None:
        options["diversity"] = diversity
    if region:
        options["region"] = _region(region)
    if mask is not None:
        options["mask"] = _content(mask)
    wanted: str | bytes | None = query
    if query is not None and not query.startswith("items/"):
        wanted = _content(Path(query))
    label = query or labelled or ", ".join(like or ())
    with session.client(timeout) as client:
        found = client.search(wanted, model, limit, **options)
        hits = []
        if as_json and found.query is not None:
            told = plain(found.query)
            told.pop("embedding", None)
            emit({"query": told})
        for hit in found:
            hits.append(hit)
            if as_json:
                emit({"hit": _plain(hit)})
    page = {"next_page_token": found.next_page_token, "unseen": found.unseen}
    if as_json and any(page.values()):
        emit({"page": {name: value for name, value in page.items() if value}})
    if not as_json:
        _show(session, label, found.query, hits)
        if found.next_page_token:
            session.err.print(f"more: --page-token {found.next_page_token}", markup=False)
        if found.unseen:
            session.err.print(
                f"{found.unseen} more that may show it were not looked at: a longer --timeout gives time, "
                "a narrower --where leaves fewer",
                markup=False,
            )
    if montage is not None:
        _draw(wanted, label, found.query, hits, options.get("region"), montage)
        session.err.print(f"drawn: {montage}", markup=False)


def items(
    ctx: typer.Context,
    model: Model,
    where: Annotated[
        str, typer.Option(metavar="CONDITION", help="Such as: label = FALSE_ALARM AND camera = line-3")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the images that search knows."""
    session = Session.of(ctx)
    rows = table("item", "class", "image", "camera", "time", "score", "verdict", "label", right=("score",))
    with session.client() as client:
        for item in client.items(model, where=where):
            if as_json:
                emit(_plain(item))
                continue
            rows.add_row(
                item.item,
                item.class_name,
                _place(item),
                item.camera,
                when(item.time),
                number(item.score),
                verdict(item.verdict),
                _label(item),
            )
    if not as_json:
        session.out.print(rows if rows.row_count else "nothing in the index fits")


def label(
    ctx: typer.Context,
    item: Annotated[str, typer.Argument(metavar="ITEM", help="items/UUID, as hits name it.")],
    model: Model,
    what: Annotated[LabelName, typer.Argument(metavar="confirmed|false-alarm|good|none")],
    label_class: Annotated[str, typer.Option("--class", help="The confirmed defect.")] = "",
    as_json: Json = False,
) -> None:
    """Note what a person says of an indexed image: searches filter by it and learn from it."""
    session = Session.of(ctx)
    with session.client() as client:
        labelled = client.label(item, model, _LABELS[what], label_class)
    if as_json:
        emit(_plain(labelled))
    else:
        session.out.print(f"{labelled.item}: {_label(labelled) or 'no label'}", markup=False)


def evaluate_search(ctx: typer.Context, model: Model, as_json: Json = False) -> None:
    """Measure how well search finds the same kind of image, each indexed image in turn as the query."""
    session = Session.of(ctx)
    with session.client() as client, Progress(console=session.err, transient=True) as progress:
        bar = progress.add_task("searching")

        def look(item: str, limit: int, exact: bool) -> list[Hit]:
            return list(client.search(item, model, limit, exact=exact))

        try:
            found = evaluate(
                client.items(model), look, lambda done, of: progress.update(bar, completed=done, total=of)
            )
        except ValueError as error:
            raise Failure(f"{error}; index a dataset with `blemish index`") from error
    if as_json:
        emit(
            {
                "queries": found.queries,
                "defective": found.defective,
                "good_or_anomalous": {f"P@{k}": share for k, share in found.sides.items()},
                "defect_class": {f"P@{k}": share for k, share in found.classes.items()},
                "recall@10": found.recall,
            }
        )
        return
    depths = tuple(f"P@{k}" for k in DEPTHS)
    rows = table("", *depths, right=depths)
    for name, figures in (("good or anomalous", found.sides), ("the same defect", found.classes)):
        rows.add_row(name, *(f"{figures[k]:.3f}" if k in figures else ABSENT for k in DEPTHS))
    session.out.print(rows)
    session.out.print(
        f"{found.queries} indexed images as queries, {found.defective} of them defective; recall@10 of the "
        f"index against exact search {found.recall:.3f}"
    )


def _label(item: Hit) -> str:
    return " ".join(filter(None, (_NAMES.get(item.label), item.label_class)))


def _plain(hit: Hit) -> dict[str, Any]:
    told = plain(hit)
    told.pop("thumbnail", None)
    told.get("match", {}).pop("heat", None)
    return told


def _region(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = map(int, text.split(","))
    except ValueError as error:
        raise Failure(f"--region {text} is not four numbers: LEFT,TOP,WIDTH,HEIGHT") from error
    return left, top, width, height


def _content(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {image}: {error.strerror}") from error


def _show(session: Session, query: str, inspection: Inspection | None, hits: list[Hit]) -> None:
    if inspection is not None:
        session.out.print(
            f"{query}: {verdict(inspection.verdict)}, score {number(inspection.score)}, "
            f"threshold {number(inspection.threshold)}, by {short(inspection.model_version)}",
            markup=False,
        )
    numbers = ("similarity", "score")
    grouped = any(hit.group for hit in hits)
    placed = any(hit.HasField("match") for hit in hits)
    rows = table(
        *(["group"] if grouped else []),
        "similarity",
        *(["match", "where"] if placed else []),
        *("class", "category", "image", "score", "verdict", "item"),
        right=(*numbers, "match"),
    )
    for hit in hits:
        rows.add_row(
            *([hit.group] if grouped else []),
            number(hit.similarity),
            *(_match(hit) if placed else []),
            hit.class_name,
            hit.category,
            _place(hit),
            number(hit.score),
            verdict(hit.verdict),
            hit.item,
        )
    session.out.print(rows if hits else "nothing in the index fits")


def _place(hit: Hit) -> str:
    """Where an image lies; a frame that was kept lies in no dataset."""
    return f"{short(hit.dataset)}/{hit.path}" if hit.dataset else ABSENT


def _match(hit: Hit) -> tuple[str, str]:
    if not hit.HasField("match"):
        return ABSENT, ABSENT
    box = hit.match.box
    return number(hit.match.similarity), f"{box.left},{box.top},{box.width},{box.height}"


def _draw(
    wanted: bytes | str | None,
    label: str,
    inspection: Inspection | None,
    hits: list[Hit],
    region: tuple[int, int, int, int] | None,
    target: Path,
) -> None:
    from blemish_client import rendering

    image = rendering.decode(wanted) if isinstance(wanted, bytes) else None
    query = rendering.MontageQuery(Path(label).name, image, inspection=inspection, region=region)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        rendering.montage(query, hits).save(target)
    except (OSError, ValueError) as error:
        raise Failure(f"cannot write {target}: {error}") from error
