# SPDX-License-Identifier: Apache-2.0
"""``blemish dataset``: upload, import, list, check, move and delete images."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from blemish.v1.dataset_pb2 import (
    Dataset,
    DatasetImage,
    ImportDatasetResponse,
    UnpairedFiles,
    UploadImagesResponse,
)
from blemish.v1.search_pb2 import LABEL_UNSPECIFIED, Label
from blemish_client.cli.choices import LabelChoice, spell
from blemish_client.cli.failures import PARTLY, Failure, can_ask, confirm_deletion, print_error
from blemish_client.cli.options import DatasetArgument, Json, Yes
from blemish_client.cli.output import ABSENT, emit, number, plain, size, table, when
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.errors import AlreadyExists, InvalidArgument, NotFound
from blemish_client.names import dataset_name, short
from blemish_client.transport.upload import FolderOptions, ImageFile, Layout, scan_folder
from blemish_layouts.names import printable
from blemish_layouts.plan import LAYOUTS, Conversion, NoGoodClass

group = typer.Typer(help="Upload, import, list, move and delete images.", no_args_is_help=True)

Category = Annotated[
    str, typer.Option(help="Kind of surface, for example tile.", show_default="the dataset's id")
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Replace images whose content has changed. Default: skip them.")
]
Good = Annotated[
    list[str] | None,
    typer.Option(
        "--good",
        metavar="NAME",
        help="Folder of good images, in addition to good, ok, okay and normal. May be repeated.",
    ),
]
OnlyDefective = Annotated[
    bool, typer.Option("--only-defective", help="Accept test images of which none is good.")
]
ChosenLayout = Annotated[
    str,
    typer.Option(
        "--layout",
        metavar="NAME",
        help=f"Layout of the folder: {', '.join(LAYOUTS)}.",
        show_default="the one that fits, except flat",
    ),
]
Bad = Annotated[
    list[str] | None,
    typer.Option(
        "--bad", metavar="FOLDER", help="Folder of defective images below FOLDER. May be repeated."
    ),
]
Masks = Annotated[
    list[str] | None,
    typer.Option("--masks", metavar="FOLDER", help="Folder of masks below FOLDER. May be repeated."),
]
WhiteLevel = Annotated[
    int,
    typer.Option(
        "--white-level",
        metavar="LEVEL",
        help="Sample value that is white in images of 16 bits, 255 to 65535: 4095 for a camera of 12 bits.",
        show_default="as each image states it",
    ),
]
_MAX_SKIPPED_SHOWN = 20
_MAX_UNPAIRED_SHOWN = 5
_NONE = "none"


@group.command("import")
def import_(
    ctx: typer.Context,
    dataset: DatasetArgument,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder on the server, inside an import root.")
    ],
    category: Category = "",
    replace: Replace = False,
    layout: ChosenLayout = "",
    good: Good = None,
    bad: Bad = None,
    masks: Masks = None,
    only_defective: OnlyDefective = False,
    white_level: WhiteLevel = 0,
    as_json: Json = False,
) -> None:
    """Import a folder of the server's file system, in MVTec AD's layout or another known one.

    Files that cannot be stored are skipped and listed. If images are among them, the exit code is 7.

    Example: blemish dataset import tile /srv/images/tile
    """
    session = Session.of(ctx)

    def run(conversion: Conversion) -> ImportDatasetResponse:
        with session.err.status(f"importing {printable(str(folder))}"):
            return client.import_dataset(
                short(dataset),
                str(folder.expanduser().absolute()),
                category=category,
                replace=replace,
                **_options(conversion),
                white_level=white_level,
            )

    conversion = _conversion(layout, good, bad, masks, category, only_defective=only_defective)
    with session.client() as client:
        try:
            result = run(conversion)
        except InvalidArgument as error:
            if error.field != "good" or not can_ask():
                raise
            result = run(_ask_for_good(session, conversion, error.message, ()))
    _print_layout(session, result.layout)
    _finish(session, result, as_json=as_json)


@group.command()
def upload(
    ctx: typer.Context,
    dataset: DatasetArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder on this machine.")],
    category: Category = "",
    replace: Replace = False,
    layout: ChosenLayout = "",
    good: Good = None,
    bad: Bad = None,
    masks: Masks = None,
    only_defective: OnlyDefective = False,
    white_level: WhiteLevel = 0,
    as_json: Json = False,
) -> None:
    """Upload a folder of this machine, in MVTec AD's layout or another known one.

    Files that cannot be stored are skipped and listed. If images are among them, the exit code is 7.
    After a failure, run the command again to upload the remaining images.

    Example: blemish dataset upload tile ~/images/tile
    """
    session = Session.of(ctx)
    conversion = _conversion(layout, good, bad, masks, category, only_defective=only_defective)
    try:
        found = scan_folder(folder, conversion)
    except (OSError, ValueError) as error:
        raise Failure(str(error)) from error
    with session.client() as client:
        try:
            found.plan.check_good(conversion, already=_has_good(client, dataset, found))
        except NoGoodClass as error:
            if not can_ask():
                raise Failure(str(error)) from error
            conversion = _ask_for_good(session, conversion, str(error), error.classes)
            found = scan_folder(folder, conversion)
        _print_layout(session, found.plan.layout)
        created = _create(client, short(dataset), category, white_level)
        result = _send(session, client, dataset, folder, found, conversion, replace=replace)
        if created and not _total(result.dataset):
            client.delete_dataset(dataset)
            _print_skipped(session, result)
            raise Failure("no image was stored, so no dataset was created")
    expected = [file.path for file in found.skipped if file.expected]
    _finish(session, result, as_json=as_json, more={"left_out": expected})


@group.command()
def update(
    ctx: typer.Context,
    dataset: DatasetArgument,
    white_level: Annotated[
        int,
        typer.Option(
            "--white-level",
            metavar="LEVEL",
            help="Sample value that is white in images of 16 bits, 255 to 65535: 4095 for 12 bits. 0 takes "
            "each image at its word.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Set the white level of a dataset, by which trainings read its images.

    Models that were trained before keep theirs.

    Example: blemish dataset update tile --white-level 4095
    """
    session = Session.of(ctx)
    with session.client() as client:
        updated = client.update_dataset(dataset, white_level=white_level)
    level = str(updated.white_level) if updated.white_level else "as each image states it"
    session.print_result(updated, f"{updated.name}: white level {level}", as_json=as_json)
    if not as_json:
        _print_warnings(session, updated)


@group.command("list")
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the datasets.

    Example: blemish dataset list
    """
    session = Session.of(ctx)
    with session.client() as client:
        if as_json:
            for dataset in client.datasets():
                emit(dataset)
            return
        numbers = ("train", "test good", "test defective", "masks", "size")
        rows = table("dataset", "category", *numbers, "created", right=numbers)
        for dataset in client.datasets():
            good = sum(c.images for c in dataset.test_images if c.class_name == "good")
            tested = sum(c.images for c in dataset.test_images)
            rows.add_row(
                short(dataset.name),
                dataset.category,
                str(dataset.train_images),
                str(good),
                str(tested - good),
                str(dataset.masks),
                size(dataset.size_bytes),
                when(dataset.create_time),
            )
    session.out.print(rows if rows.row_count else "no datasets; upload one with: blemish dataset upload")


@group.command()
def images(
    ctx: typer.Context,
    dataset: DatasetArgument,
    under: Annotated[
        str,
        typer.Option(metavar="PREFIX", help="List only paths with this prefix: train/, test/crack/, ..."),
    ] = "",
    as_json: Json = False,
) -> None:
    """List the images and masks of a dataset.

    Example: blemish dataset images tile --under test/crack/
    """
    session = Session.of(ctx)
    found: list[DatasetImage] = []
    with session.client() as client:
        for image in client.images(dataset, under=under):
            if as_json:
                emit(image)
            else:
                found.append(image)
        if as_json:
            return
        unpaired = UnpairedFiles() if under else client.unpaired(dataset)
    renamed = any(image.original_path for image in found)
    copied = any(image.HasField("provenance") for image in found)
    columns = ["path", "px", "size", *["original"] * renamed, *["origin"] * copied]
    rows = table(*columns, right=("px", "size"))
    for image in found:
        cells = [image.path, f"{image.width} x {image.height}", size(image.size_bytes)]
        cells += [printable(image.original_path)] * renamed + [_origin(image)] * copied
        rows.add_row(*map(escape, cells))
    session.out.print(rows if found else f"no images{under and f' under {under}'}")
    _print_unpaired(session, unpaired)


@group.command()
def suspects(
    ctx: typer.Context,
    dataset: DatasetArgument,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Model or version whose scores to list.",
            show_default="the newest one trained on the dataset",
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of images of each use.")] = 10,
    as_json: Json = False,
) -> None:
    """List the good training images with the highest scores, of which some may be defective.

    A defective image among the good ones raises the threshold, and hides defects like it. Remove it and
    train again.

    Example: blemish dataset suspects tile
    """
    session = Session.of(ctx)
    with session.client() as client:
        found = client.suspects(dataset, model=model, limit=limit)
    if as_json:
        emit(found)
        return
    numbers = ("rank", "score", "next", "distance", "threshold without it")
    rows = table("image", "use", *numbers, "", right=numbers)
    for each in found.suspects:
        has_next = each.HasField("next_score")
        rows.add_row(
            escape(printable(each.original_path or each.path)),
            "held out" if each.held_out else "learned",
            f"{each.rank} of {each.count}",
            number(each.score),
            number(each.next_score if has_next else None),
            number(each.score - each.next_score if has_next else None),
            number(each.threshold_without if each.HasField("threshold_without") else None),
            "stands out" if each.stands_out else "",
        )
    session.out.print(
        f"good images of {short(found.dataset)} by {short(found.model_version)}, threshold "
        f"{number(found.threshold)}",
        markup=False,
    )
    session.out.print(rows if found.suspects else "no scored images")
    odd = [each for each in found.suspects if each.stands_out]
    if odd:
        paths = " ".join(shlex.quote(printable(each.original_path or each.path)) for each in odd)
        session.out.print(
            f"if an image is not good: blemish dataset remove {short(found.dataset)} {paths}",
            markup=False,
            soft_wrap=True,
        )


@group.command()
def remove(
    ctx: typer.Context,
    dataset: DatasetArgument,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH", help="Paths or original paths from `images`, for example train/good/003.png."
        ),
    ],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete images with their masks and index entries.

    Example: blemish dataset remove tile train/good/003.png
    """
    session = Session.of(ctx)
    name = dataset_name(short(dataset))
    images = paths[0] if len(paths) == 1 else f"{len(paths)} images"
    confirm_deletion(f"{images} from {name}", yes=yes)
    with session.client() as client:
        result = client.delete_images(dataset, paths)
    line = f"{name}: {result.removed} removed; {_contents(result.dataset)}"
    session.print_result(result, line, as_json=as_json)


@group.command()
def move(
    ctx: typer.Context,
    dataset: DatasetArgument,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH", help="Paths or original paths from `images`, for example train/good/003.png."
        ),
    ],
    folder: Annotated[
        str, typer.Option("--to", metavar="FOLDER", help="Folder: train/good, test/good or test/CLASS.")
    ],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Move images to another class, with their masks.

    All images move, or none. Masks of images that become good are deleted.

    Example: blemish dataset move tile train/good/003.png --to test/crack
    """
    session = Session.of(ctx)
    name = dataset_name(short(dataset))
    if folder.rpartition("/")[2] == "good" and any("/good/" not in path for path in paths):
        confirm_deletion(f"the masks of images that move to {folder} of {name}", yes=yes)
    with session.client() as client:
        result = client.move_images(dataset, paths, folder)
    moved = sum(each.path != each.new_path for each in result.images)
    masks = f", {result.deleted_masks} masks deleted" if result.deleted_masks else ""
    line = f"{name}: {moved} moved to {folder}{masks}; {_contents(result.dataset)}"
    session.print_result(result, line, as_json=as_json)


@group.command()
def delete(ctx: typer.Context, dataset: DatasetArgument, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a dataset and its index entries.

    Models trained on it remain.

    Example: blemish dataset delete tile
    """
    session = Session.of(ctx)
    name = dataset_name(short(dataset))
    confirm_deletion(name, yes=yes)
    with session.client() as client:
        client.delete_dataset(dataset)
    session.print_result({"removed": name}, f"{name} was deleted", as_json=as_json)


def _origin(image: DatasetImage) -> str:
    """Return the item of which an image is a copy: id, camera, time, label and author."""
    if not image.HasField("provenance"):
        return ABSENT
    origin = image.provenance
    label = "" if origin.label == LABEL_UNSPECIFIED else spell(Label, origin.label)
    parts = [
        short(origin.item)[:8],
        origin.camera,
        when(origin.time) if origin.HasField("time") else "",
        f"{label} {origin.label_class}".strip() if label != LabelChoice.NONE else "no label",
        f"by {origin.author}" if origin.author else "",
    ]
    return printable(", ".join(filter(None, parts)))


def _has_good(client: Client, dataset: str, layout: Layout) -> bool:
    """Return whether the dataset has good test images, if the folder has only defective ones."""
    if not layout.plan.lacks_good:
        return True
    try:
        tested = client.dataset(dataset).test_images
    except NotFound:
        return False
    return any(test_class.class_name == "good" for test_class in tested)


def _create(client: Client, dataset_id: str, category: str, white_level: int) -> bool:
    """Create a dataset unless it exists, else set its white level; return whether it is new.

    Raises:
        Failure: if it exists with another category.
    """
    try:
        client.create_dataset(dataset_id, category=category, white_level=white_level)
    except AlreadyExists:
        existing = client.dataset(dataset_id)
        if category and existing.category != category:
            raise Failure(
                f"{existing.name} has the category {existing.category}, not {category}; choose another id"
            ) from None
        if white_level:
            client.update_dataset(dataset_id, white_level=white_level)
        return False
    return True


def _conversion(
    layout: str,
    good: Sequence[str] | None,
    bad: Sequence[str] | None,
    masks: Sequence[str] | None,
    category: str,
    *,
    only_defective: bool,
) -> Conversion:
    return Conversion(
        good=frozenset(good or ()),
        only_defective=only_defective,
        layout=layout,
        category=category,
        bad=frozenset(bad or ()),
        masks=frozenset(masks or ()),
    )


def _options(conversion: Conversion) -> FolderOptions:
    return FolderOptions(
        layout=conversion.layout,
        good=conversion.good,
        bad=conversion.bad,
        masks=conversion.masks,
        only_defective=conversion.only_defective,
    )


def _print_layout(session: Session, layout: str) -> None:
    if layout not in ("", "mvtec-ad"):
        session.err.print(f"layout: {layout}")


def _ask_for_good(
    session: Session, conversion: Conversion, problem: str, classes: Sequence[str]
) -> Conversion:
    """Ask for the folder of good images.

    Args:
        session: the consoles.
        conversion: the choices made so far.
        problem: the reason for the question.
        classes: names that are accepted, empty for all.
    """
    session.err.print(printable(problem), markup=False)
    question = f"Folder of good images ({_NONE!r} if all are defective)"
    while True:
        answer = typer.prompt(question, err=True).strip()
        if answer == _NONE:
            return changed(conversion, only_defective=True)
        if answer and (not classes or answer in classes):
            return changed(conversion, good=conversion.good | {answer})
        session.err.print(f"choose one of {', '.join(classes)}", markup=False)


def _send(
    session: Session,
    client: Client,
    dataset: str,
    folder: Path,
    layout: Layout,
    conversion: Conversion,
    *,
    replace: bool,
) -> UploadImagesResponse:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[images]} images"),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    sent = 0
    with Progress(*columns, console=session.err) as progress:
        bar = progress.add_task(
            f"upload {short(dataset)}", total=layout.size_bytes, images=f"0/{len(layout.images)}"
        )

        def on_image(image: ImageFile) -> None:
            nonlocal sent
            sent += 1
            progress.update(bar, advance=image.size_bytes, images=f"{sent}/{len(layout.images)}")

        try:
            return client.upload(
                dataset,
                folder,
                on_image=on_image,
                replace=replace,
                category=conversion.category,
                **_options(conversion),
            )
        except ValueError as error:  # the folder has changed since it was scanned
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            print_error("uploaded images are kept; run the command again to upload the rest")
            raise


def _finish(
    session: Session,
    result: UploadImagesResponse | ImportDatasetResponse,
    *,
    as_json: bool,
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Print the result; exit with PARTLY if images were skipped."""
    if as_json:
        emit({**plain(result), **more})
    else:
        replaced = f", {result.replaced} replaced" if result.replaced else ""
        session.out.print(
            f"{dataset_name(short(result.dataset.name))}: {result.stored} stored, "
            f"{result.unchanged} unchanged{replaced}; {_contents(result.dataset)}",
            markup=False,
        )
        _print_skipped(session, result)
        _print_unpaired(session, result.unpaired)
        _print_warnings(session, result.dataset)
    if result.skipped_count > result.expected_count:
        raise typer.Exit(PARTLY)


def _print_warnings(session: Session, dataset: Dataset) -> None:
    for warning in dataset.warnings:
        session.err.print(f"warning: {printable(warning)}", markup=False)


def _print_skipped(session: Session, result: UploadImagesResponse | ImportDatasetResponse) -> None:
    for skipped in sorted(result.skipped, key=lambda file: file.expected)[:_MAX_SKIPPED_SHOWN]:
        session.err.print(f"skipped {printable(skipped.path)}: {printable(skipped.reason)}", markup=False)
    if result.skipped_count > _MAX_SKIPPED_SHOWN:
        session.err.print(
            f"skipped {result.skipped_count} files in total, listed with --json", markup=False
        )


def _print_unpaired(session: Session, files: UnpairedFiles) -> None:
    masks = "mask matches" if files.masks_count == 1 else "masks match"
    _print_some(session, f"{masks} no image by name", files.masks_count, files.masks)
    images = "image has" if files.images_count == 1 else "images have"
    _print_some(session, f"defective {images} no mask", files.images_count, files.images)


def _print_some(session: Session, problem: str, count: int, paths: Sequence[str]) -> None:
    if not count:
        return
    names = ", ".join(map(printable, paths[:_MAX_UNPAIRED_SHOWN]))
    more = f" and {count - _MAX_UNPAIRED_SHOWN} more" if count > _MAX_UNPAIRED_SHOWN else ""
    session.err.print(f"{count} {problem}: {names}{more}", markup=False)


def _total(dataset: Dataset) -> int:
    """Return the number of images and masks."""
    return dataset.train_images + sum(each.images for each in dataset.test_images) + dataset.masks


def _contents(dataset: Dataset) -> str:
    tested = sum(test_class.images for test_class in dataset.test_images)
    return f"now {dataset.train_images} training images, {tested} test images, {dataset.masks} masks"
