# SPDX-License-Identifier: Apache-2.0
"""``blemish search`` and ``evaluate-search``: find past images."""

from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.progress import Progress

from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.search_pb2 import Hit
from blemish_client.cli.failures import NOT_FOUND, Failure, exit_code
from blemish_client.cli.frames import parse_region
from blemish_client.cli.items import image_text, item_fields, short_ids, stored_item
from blemish_client.cli.options import Json, Model
from blemish_client.cli.output import ABSENT, emit, inspection_fields, number, table, verdict
from blemish_client.cli.session import Session
from blemish_client.cli.times import with_local_zone
from blemish_client.client import Client
from blemish_client.errors import BlemishError
from blemish_client.names import short
from blemish_client.retrieval import DEPTHS, evaluate
from blemish_client.search import similarity
from blemish_client.transport.connection import TIMEOUT_S
from blemish_client.transport.requests import SearchOptions
from blemish_client.types.stored_image import StoredImage

_QUERY_PX = 1024
"""Longer side of the query's picture in a montage."""


def search(
    ctx: typer.Context,
    model: Model,
    query: Annotated[
        str | None,
        typer.Argument(metavar="IMAGE", help="Image file, or the id of an indexed item."),
    ] = None,
    limit: Annotated[int, typer.Option("-k", "--limit", min=1, help="Number of hits.")] = 10,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Find only this class. May be repeated.")
    ] = None,
    categories: Annotated[
        list[str] | None, typer.Option("--category", help="Find only this category. May be repeated.")
    ] = None,
    datasets: Annotated[
        list[str] | None, typer.Option("--dataset", help="Find only this dataset. May be repeated.")
    ] = None,
    where: Annotated[
        str,
        typer.Option(metavar="CONDITION", help='Filter condition: class = "crack" AND score > 12'),
    ] = "",
    labelled: Annotated[
        str,
        typer.Option(
            metavar="CLASS", help="Find images like those confirmed as this class, without a query image."
        ),
    ] = "",
    like: Annotated[
        list[str] | None,
        typer.Option(metavar="ITEM", help="Also find images like this item. May be repeated."),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(metavar="ITEM", help="Find images unlike this item. May be repeated."),
    ] = None,
    group_by: Annotated[
        str,
        typer.Option(metavar="FIELD", help="Group hits by dataset, category, class, camera or label."),
    ] = "",
    diversity: Annotated[
        float | None,
        typer.Option(metavar="0..1", help="Diversity of the hits.", show_default="0"),
    ] = None,
    region: Annotated[
        str,
        typer.Option(
            metavar="LEFT,TOP,WIDTH,HEIGHT", help="Find images that show this part of the image, in px."
        ),
    ] = "",
    mask: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Find images that show the part of the image under this mask."),
    ] = None,
    page_token: Annotated[
        str, typer.Option(metavar="TOKEN", help="Continue after the page that printed this token.")
    ] = "",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="Time limit of the search.")
    ] = TIMEOUT_S,
    montage: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Draw the query and its hits to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the past images most similar to an image.

    Example: blemish search frame.png -m tile-patchcore --class crack --montage hits.png
    """
    session = Session.of(ctx)
    options = SearchOptions(
        datasets=datasets or (),
        categories=categories or (),
        classes=classes or (),
        where=with_local_zone(where),
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
        options["region"] = parse_region(region)
    if mask is not None:
        options["mask"] = _read(mask)
    content: str | bytes | None = query
    if query is not None:
        content = stored_item(query) or _read(Path(query))
    label = query or labelled or ", ".join(like or ())
    stored: StoredImage | None = None
    with session.client(timeout) as client:
        if montage is not None and isinstance(content, str):
            stored = _stored_image(session, client, content, model)
        results = client.search(content, model, limit, **options)
        hits = []
        if as_json and results.query is not None:
            emit({"query": inspection_fields(results.query)})
        for hit in results:
            hits.append(hit)
            if as_json:
                emit({"hit": item_fields(hit)})
    page = {"next_page_token": results.next_page_token, "unseen": results.unseen}
    if as_json and any(page.values()):
        emit({"page": {name: value for name, value in page.items() if value}})
    if not as_json:
        _print_hits(session, label, results.query, hits)
        if results.next_page_token:
            session.err.print(f"more hits: --page-token {results.next_page_token}", markup=False)
        if results.unseen:
            session.err.print(
                f"{results.unseen} candidates were not compared in time; increase --timeout, "
                "or narrow the search with --where",
                markup=False,
            )
    if montage is not None:
        _draw_montage(stored or content, label, results.query, hits, options.get("region"), montage)
        session.err.print(f"montage: {montage}", markup=False)


def evaluate_search(ctx: typer.Context, model: Model, as_json: Json = False) -> None:
    """Measure the precision of search, with each indexed image as the query in turn.

    Example: blemish evaluate-search -m tile-patchcore
    """
    session = Session.of(ctx)
    with session.client() as client, Progress(console=session.err, transient=True) as progress:
        bar = progress.add_task("searching")

        def search_by_item(item: str, limit: int, exact: bool) -> list[Hit]:
            return list(client.search(item, model, limit, exact=exact))

        try:
            quality = evaluate(
                client.items(model),
                search_by_item,
                lambda done, total: progress.update(bar, completed=done, total=total),
            )
        except ValueError as error:
            raise Failure(f"{error}; index a dataset with `blemish index`") from error
    if as_json:
        emit(
            {
                "queries": quality.queries,
                "defective": quality.defective,
                "good_or_anomalous": {f"P@{k}": share for k, share in quality.sides.items()},
                "defect_class": {f"P@{k}": share for k, share in quality.classes.items()},
                "recall@10": quality.recall,
            }
        )
        return
    depths = tuple(f"P@{k}" for k in DEPTHS)
    rows = table("", *depths, right=depths)
    for name, figures in (("good or anomalous", quality.sides), ("same defect class", quality.classes)):
        rows.add_row(name, *(f"{figures[k]:.3f}" if k in figures else ABSENT for k in DEPTHS))
    session.out.print(rows)
    session.out.print(
        f"{quality.queries} queries, {quality.defective} of them defective; recall@10 of the index "
        f"compared with exact search: {quality.recall:.3f}"
    )


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {image}: {error.strerror}") from error


def _print_hits(session: Session, query: str, inspection: Inspection | None, hits: list[Hit]) -> None:
    if inspection is not None:
        session.out.print(
            f"{query}: {verdict(inspection.verdict)}, score {number(inspection.score)}, "
            f"threshold {number(inspection.threshold)}, by {short(inspection.model_version)}",
            markup=False,
        )
    has_groups = any(hit.group for hit in hits)
    has_matches = any(hit.HasField("match") for hit in hits)
    rows = table(
        *(["group"] if has_groups else []),
        "similarity",
        *(["where"] if has_matches else []),
        *("class", "category", "image", "score", "verdict", "item"),
        right=("similarity", "score"),
    )
    ids = short_ids(hits)
    for hit in hits:
        rows.add_row(
            *([hit.group] if has_groups else []),
            number(similarity(hit)),
            *([_place(hit)] if has_matches else []),
            hit.class_name,
            hit.category,
            image_text(hit),
            number(hit.score),
            verdict(hit.verdict),
            ids[hit.item],
        )
    session.out.print(rows if hits else "no indexed image matches")


def _place(hit: Hit) -> str:
    if not hit.HasField("match"):
        return ABSENT
    box = hit.match.box
    return f"{box.left},{box.top},{box.width},{box.height}"


def _stored_image(session: Session, client: Client, item: str, model: str) -> StoredImage | None:
    """Return the picture of an item, None if its image is no longer stored or the server is too old."""
    try:
        return client.item_image(item, model, thumbnail=_QUERY_PX)
    except BlemishError as error:
        if exit_code(error) == NOT_FOUND or error.code is grpc.StatusCode.UNIMPLEMENTED:
            session.err.print(f"the montage has no image of the query: {error.message}", markup=False)
            return None
        raise


def _draw_montage(
    content: bytes | str | StoredImage | None,
    label: str,
    inspection: Inspection | None,
    hits: list[Hit],
    region: tuple[int, int, int, int] | None,
    target: Path,
) -> None:
    from blemish_client import rendering

    shown: rendering.Picture | None = None
    if isinstance(content, bytes):
        shown = rendering.picture(content, inspection)
    elif isinstance(content, StoredImage):
        shown = rendering.Picture(rendering.decode(content.content), (content.width, content.height))
    query = rendering.MontageQuery(
        Path(label).name,
        shown.image if shown else None,
        inspection=inspection,
        region=region,
        size=shown.size if shown else None,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        rendering.montage(query, hits).save(target)
    except (OSError, ValueError) as error:
        raise Failure(f"cannot write {target}: {error}") from error
