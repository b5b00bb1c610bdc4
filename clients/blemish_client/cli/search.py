# SPDX-License-Identifier: Apache-2.0
"""``blemish search``: past images most like one, and a picture of them."""

from pathlib import Path
from typing import Annotated

import typer

from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.search_pb2 import Hit
from blemish_client.cli.failures import Failure
from blemish_client.cli.options import Json, Model
from blemish_client.cli.output import emit, number, plain, table, verdict
from blemish_client.cli.session import Session
from blemish_client.names import short


def search(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(metavar="IMAGE", help="A file, or items/UUID as hits name it.")],
    model: Model,
    limit: Annotated[int, typer.Option("-k", "--limit", help="Number of hits.")] = 10,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Only of this; may be repeated.")
    ] = None,
    categories: Annotated[
        list[str] | None, typer.Option("--category", help="Only of this; may be repeated.")
    ] = None,
    datasets: Annotated[
        list[str] | None, typer.Option("--dataset", help="Only of this; may be repeated.")
    ] = None,
    montage: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Draw the query beside its hits.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find past images most like one: good for good, the same defect for a defect."""
    session = Session.of(ctx)
    wanted = query if query.startswith("items/") else _content(Path(query))
    with session.client() as client:
        found = client.search(
            wanted,
            model,
            limit,
            datasets=datasets or (),
            categories=categories or (),
            classes=classes or (),
            thumbnails=montage is not None,
        )
        hits = []
        if as_json and found.query is not None:
            told = plain(found.query)
            told.pop("embedding", None)
            emit({"query": told})
        for hit in found:
            hits.append(hit)
            if as_json:
                told = plain(hit)
                told.pop("thumbnail", None)
                emit({"hit": told})
    if not as_json:
        _show(session, query, found.query, hits)
    if montage is not None:
        _draw(wanted, query, found.query, hits, montage)
        session.err.print(f"drawn: {montage}", markup=False)


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
    rows = table("similarity", "class", "category", "image", "score", "verdict", "item", right=numbers)
    for hit in hits:
        rows.add_row(
            number(hit.similarity),
            hit.class_name,
            hit.category,
            f"{short(hit.dataset)}/{hit.path}",
            number(hit.score),
            verdict(hit.verdict),
            hit.item,
        )
    session.out.print(rows if hits else "nothing in the index fits")


def _draw(
    wanted: bytes | str, label: str, inspection: Inspection | None, hits: list[Hit], target: Path
) -> None:
    from blemish_client import pictures

    image = pictures.decoded(wanted) if isinstance(wanted, bytes) else None
    query = pictures.Query(Path(label).name, image, inspection=inspection)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        pictures.montage(query, hits).save(target)
    except (OSError, ValueError) as error:
        raise Failure(f"cannot write {target}: {error}") from error
