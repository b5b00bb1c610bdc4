# SPDX-License-Identifier: Apache-2.0
"""``blemish score``: score images and draw their anomaly maps."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, Image
from blemish.v1.inspection_pb2 import Inspection
from blemish_client.cli.alignment import alignment_line
from blemish_client.cli.failures import BAD_INPUT, UNSUCCESSFUL, Failure, describe, exit_code, print_error
from blemish_client.cli.frames import STDIN, FrameReader, Part, Raw, find_images
from blemish_client.cli.options import FailOnAnomaly, Json, Model, ShowDefectClass
from blemish_client.cli.output import defect_class, emit, inspection_fields, number, table, verdict
from blemish_client.cli.regions import regions_line
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.errors import BlemishError

_NUMBERS = ("score", "threshold", "p-value")
_IMAGES_WITH_PROGRESS = 20


def score(
    ctx: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="Image files, folders of images, patterns such as 'line/*.png', or - for stdin.",
        ),
    ],
    model: Model,
    map_: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="OUT.png",
            help="Draw the anomaly map to this file, or into this folder for several images.",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.png",
            help="Write the regions of defects as a black and white picture to this file, or into this "
            "folder for several images.",
        ),
    ] = None,
    region: Part = None,
    raw: Raw = None,
    show_class: ShowDefectClass = False,
    fail_on_anomaly: FailOnAnomaly = False,
    as_json: Json = False,
) -> None:
    """Score images with a model, and show where the defects are.

    Folders are read with those below them, without the masks of a dataset. An image that cannot be scored
    does not stop the others. The exit code is then 2.

    Example: blemish score frame.png -m tile-patchcore --map map.png
    """
    session = Session.of(ctx)
    frames = FrameReader.of(raw, region)
    files = find_images(images, frames.suffixes)
    single = len(images) == 1 and files == images
    maps, masks = (_output_files(files, target, single=single) for target in (map_, mask))
    found: list[str] = []
    columns = ("image", "verdict", "score", "threshold", "p-value", *(["class"] if show_class else []))
    rows = table(*columns, right=_NUMBERS)
    counts: Counter[str] = Counter()
    try:
        with session.client() as client, _progress(session, len(files)) as progress:
            targets = zip(files, maps, masks, strict=True)
            for image, map_file, mask_file in progress.track(targets, len(files), description="scoring"):
                try:
                    inspection = _score(
                        client, image, frames, model, map_file, mask_file, show_class=show_class
                    )
                except Failure as failure:
                    counts["not scored"] += 1
                    print_error(str(failure))
                    if as_json:
                        emit({"image": str(image), "error": str(failure)})
                    continue
                counts[verdict(inspection.verdict)] += 1
                _report(image, inspection, rows, show_class=show_class, as_json=as_json)
                if line := regions_line(inspection.regions):
                    found.append(f"{image}: {line}")
                if line := alignment_line(inspection):
                    found.append(f"{image}: {line}")
    finally:
        if rows.row_count:
            session.out.print(rows)
            for line in found:
                session.out.print(line, markup=False)
    if len(files) > 1 and not as_json:
        counted = ", ".join(f"{number} {name}" for name, number in counts.items())
        session.out.print(f"{len(files)} images: {counted}")
    if counts["not scored"]:
        raise typer.Exit(BAD_INPUT)
    if counts["anomalous"] and fail_on_anomaly:
        raise typer.Exit(UNSUCCESSFUL)


def _progress(session: Session, images: int) -> Progress:
    """Return a bar on the terminal; none for few images."""
    is_shown = session.err.is_terminal and images >= _IMAGES_WITH_PROGRESS
    return Progress(console=session.err, transient=True, disable=not is_shown)


def _score(
    client: Client,
    image: Path,
    frames: FrameReader,
    model: str,
    map_file: Path | None,
    mask_file: Path | None,
    *,
    show_class: bool,
) -> Inspection:
    """Score one image, draw its map and write its mask.

    Raises:
        Failure: if only this image is at fault.
    """
    content = frames.read(image)
    try:
        inspection = client.score(
            content,
            model,
            anomaly_map=map_file is not None,
            regions=True,
            mask=mask_file is not None,
            defect_class=show_class,
            preview=map_file is not None and _needs_preview(content),
        )
    except BlemishError as error:
        # A malformed model name fails every image. The field is empty in a minimal installation.
        if exit_code(error) != BAD_INPUT or error.field == "model":
            raise
        raise Failure(f"{image}: {describe(error)}") from error
    if map_file is not None:
        draw(content, inspection, map_file)
    if mask_file is not None:
        _write_mask(inspection, mask_file)
    return inspection


def _needs_preview(content: bytes | Image) -> bool:
    from blemish_client import rendering

    return not rendering.is_read_alike(content)


def _write_mask(inspection: Inspection, target: Path) -> None:
    if not inspection.mask:
        raise Failure("the server is too old to send masks; update it, or leave out --mask")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(inspection.mask)
    except OSError as error:
        raise Failure(f"cannot write {target}: {error.strerror}") from error


def draw(content: bytes | Image, inspection: Inspection, target: Path, **options: Any) -> None:
    """Draw an image with its anomaly map to the file ``target``.

    Args:
        content: encoded image, or a message.
        inspection: inspection with an anomaly map and regions.
        target: file to write.
        **options: options of Pillow for the file format.

    Raises:
        Failure: if the file cannot be written.
    """
    from blemish_client import rendering

    caption = (
        f"{verdict(inspection.verdict)}   score {inspection.score:.3f}   "
        f"threshold {inspection.threshold:.3f}"
    )
    if inspection.HasField("defect_class"):
        caption += f"   {defect_class(inspection)}"
    try:
        shown = rendering.picture(content, inspection)
    except (OSError, ValueError) as error:
        raise Failure(f"cannot write {target}: {error}") from error
    regions = rendering.drawable_regions(inspection)
    if isinstance(content, Image) and content.HasField("region"):
        regions = rendering.shifted_regions(regions, content.region.left, content.region.top)
    drawn = rendering.heatmap(
        rendering.enlarge(shown.image),
        rendering.pixel_scores(inspection.anomaly_map),
        inspection.anomaly_map.threshold,
        regions=regions,
        region_size=shown.size,
        caption=caption,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(target, **options)
    except (OSError, ValueError) as error:
        raise Failure(f"cannot write {target}: {error}") from error


def _report(image: Path, inspection: Inspection, rows: Table, *, show_class: bool, as_json: bool) -> None:
    if as_json:
        emit({"image": str(image), **inspection_fields(inspection)})
        return
    for note in inspection.notes:
        print_error(f"{image}: {note}")
    style = "red" if inspection.verdict == VERDICT_ANOMALOUS else "green"
    rows.add_row(
        str(image),
        f"[{style}]{verdict(inspection.verdict)}[/{style}]",
        number(inspection.score),
        number(inspection.threshold),
        number(inspection.p_value),
        *([escape(defect_class(inspection))] if show_class else []),
    )


def _output_files(images: list[Path], target: Path | None, *, single: bool) -> Iterator[Path | None]:
    """Yield the file for each image: ``target`` for a single image, a file in that folder for others."""
    if target is None:
        yield from (None for _ in images)
    elif single and not target.is_dir():
        yield target
    else:
        taken: set[str] = set()
        for image in images:
            # MVTec AD uses the same file names in each class: test/crack/000.png, test/good/000.png.
            stem = "stdin" if image == STDIN else f"{image.absolute().parent.name}-{image.stem}"
            name, count = stem, 1
            while name in taken:
                count += 1
                name = f"{stem}-{count}"
            taken.add(name)
            yield target / f"{name}.png"
