# SPDX-License-Identifier: Apache-2.0
"""``blemish score``: verdicts on images, and pictures of what is wrong with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.inspection_pb2 import Inspection
from blemish_client.cli.failures import BAD_INPUT, UNSUCCESSFUL, Failure, complain, exit_code, sentence
from blemish_client.cli.options import Json, Model
from blemish_client.cli.output import emit, number, plain, table, verdict
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.errors import BlemishError


def score(
    ctx: typer.Context,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Files; one or more.")],
    model: Model,
    map_: Annotated[
        Path | None,
        typer.Option(
            "--map", metavar="OUT.png", help="Draw where it is wrong; a folder for several images."
        ),
    ] = None,
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="Exit with 1 if any image is anomalous.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score images against a model; goes on after a bad one and ends with code 2 then."""
    session = Session.of(ctx)
    maps = _map_files(images, map_)
    rows = table("image", "verdict", "score", "threshold", "p-value", right=_NUMBERS)
    bad = anomalous = False
    with session.client() as client:
        for image, target in zip(images, maps, strict=True):
            try:
                inspection = _score(client, image, model, target)
            except Failure as failure:
                bad = True
                complain(str(failure))
                if as_json:
                    emit({"image": str(image), "error": str(failure)})
                continue
            anomalous |= inspection.verdict == VERDICT_ANOMALOUS
            _report(image, inspection, rows, as_json=as_json)
    if rows.row_count:
        session.out.print(rows)
    if bad:
        raise typer.Exit(BAD_INPUT)
    if anomalous and fail_on_anomaly:
        raise typer.Exit(UNSUCCESSFUL)


_NUMBERS = ("score", "threshold", "p-value")


def _score(client: Client, image: Path, model: str, target: Path | None) -> Inspection:
    """Score one image and draw its map to ``target``.

    Raises:
        Failure: for what is wrong with this image alone.
    """
    try:
        content = image.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {image}: {error.strerror}") from error
    try:
        inspection = client.score(content, model, anomaly_map=target is not None)
    except BlemishError as error:
        # A malformed model is every image's trouble; "field" is empty from a thin client.
        if exit_code(error) != BAD_INPUT or error.field == "model":
            raise
        raise Failure(f"{image}: {sentence(error)}") from error
    if target is not None:
        draw(content, inspection, target)
    return inspection


def draw(content: bytes, inspection: Inspection, target: Path, **options: Any) -> None:
    """Draw an image beside its anomaly map into the file ``target``; ``options`` are of its format.

    Raises:
        Failure: if it cannot be written.
    """
    from blemish_client import rendering

    words = "anomalous" if inspection.verdict == VERDICT_ANOMALOUS else "normal"
    caption = f"{words}   score {inspection.score:.3f}   threshold {inspection.threshold:.3f}"
    drawn = rendering.heatmap(
        rendering.enlarge(rendering.decode(content)),
        rendering.pixel_scores(inspection.anomaly_map),
        inspection.anomaly_map.threshold,
        caption=caption,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(target, **options)
    except (OSError, ValueError) as error:
        raise Failure(f"cannot write {target}: {error}") from error


def _report(image: Path, inspection: Inspection, rows: Table, *, as_json: bool) -> None:
    if as_json:
        told = plain(inspection)
        told.pop("anomaly_map", None)
        told.pop("embedding", None)
        emit({"image": str(image), **told})
        return
    words = verdict(inspection.verdict)
    style = "red" if inspection.verdict == VERDICT_ANOMALOUS else "green"
    rows.add_row(
        str(image),
        f"[{style}]{words}[/{style}]",
        number(inspection.score),
        number(inspection.threshold),
        number(inspection.p_value),
    )


def _map_files(images: list[Path], map_: Path | None) -> Iterator[Path | None]:
    """Yield for each image the file its map goes to: ``map_``, or for several one below it."""
    if map_ is None:
        yield from (None for _ in images)
    elif len(images) == 1 and not map_.is_dir():
        yield map_
    else:
        taken: set[str] = set()
        for image in images:
            # MVTec AD numbers the images of each class alike: test/crack/000, test/good/000.
            stem = f"{image.absolute().parent.name}-{image.stem}"
            name, count = stem, 1
            while name in taken:
                count += 1
                name = f"{stem}-{count}"
            taken.add(name)
            yield map_ / f"{name}.png"
