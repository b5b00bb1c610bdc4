# SPDX-License-Identifier: Apache-2.0
"""``blemish dataset``: bring images to the server, list what is there, and remove it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from blemish.v1.dataset_pb2 import Dataset, ImportDatasetResponse, UploadImagesResponse
from blemish_client.cli.failures import Failure, complain, make_sure
from blemish_client.cli.options import Json, Yes
from blemish_client.cli.output import emit, plain, size, table, when
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.errors import AlreadyExists
from blemish_client.names import dataset_name, short
from blemish_client.transport.upload import ImageFile, Layout, scan_folder

group = typer.Typer(help="Bring images to the server, list and remove them.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's id, for example tile.")]
Category = Annotated[str, typer.Option(help="The surface; the id unless given.")]
_SHOWN_LEFT_OUT = 5


@group.command("import")
def import_(
    ctx: typer.Context,
    dataset: Id,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="On the server, below an import root.")],
    category: Category = "",
    as_json: Json = False,
) -> None:
    """Copy a folder of the server's file system, laid out as MVTec AD is, into a dataset."""
    session = Session.of(ctx)
    with session.client() as client, session.err.status(f"importing {folder}"):
        told = client.import_dataset(short(dataset), str(folder.expanduser().absolute()), category=category)
    if as_json:
        emit(told)
        return
    _say_stored(session, told)
    for skipped in told.skipped[:_SHOWN_LEFT_OUT]:
        session.err.print(f"left out {skipped.path}: {skipped.reason}", markup=False)
    if told.skipped_count > _SHOWN_LEFT_OUT:
        session.err.print(f"left out {told.skipped_count} files in all")


@group.command()
def upload(
    ctx: typer.Context,
    dataset: Id,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="On this machine.")],
    category: Category = "",
    as_json: Json = False,
) -> None:
    """Send a folder of this machine, laid out as MVTec AD is; again after a failure to go on."""
    session = Session.of(ctx)
    try:
        found = scan_folder(folder)
    except (OSError, ValueError) as error:
        raise Failure(str(error)) from error
    with session.client() as client:
        _create(client, short(dataset), category)
        told = _send(session, client, dataset, folder, found)
    if as_json:
        emit({**plain(told), "left_out": list(found.left_out)})
        return
    _say_stored(session, told)
    for path in found.left_out[:_SHOWN_LEFT_OUT]:
        session.err.print(f"left out {path}: no image by its suffix", markup=False)
    if len(found.left_out) > _SHOWN_LEFT_OUT:
        session.err.print(f"left out {len(found.left_out)} files in all")


@group.command("list")
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the datasets."""
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
    session.out.print(rows if rows.row_count else "no datasets yet: blemish dataset upload --help")


@group.command()
def images(
    ctx: typer.Context,
    dataset: Id,
    under: Annotated[
        str, typer.Option(metavar="PREFIX", help="Only paths that begin so: train/, test/crack/, ...")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the images and masks of a dataset."""
    session = Session.of(ctx)
    rows = table("path", "px", "size", right=("px", "size"))
    with session.client() as client:
        for image in client.images(dataset, under=under):
            if as_json:
                emit(image)
            else:
                rows.add_row(image.path, f"{image.width} x {image.height}", size(image.size_bytes))
    if not as_json:
        session.out.print(rows if rows.row_count else f"no images {under and f'under {under} '}there")


@group.command()
def remove(
    ctx: typer.Context,
    dataset: Id,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="As `images` lists them: train/good/003.png.")
    ],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove images for good: a defective one among the good, for example. Masks go with their images."""
    session = Session.of(ctx)
    whole = dataset_name(short(dataset))
    named = paths[0] if len(paths) == 1 else f"{len(paths)} images"
    make_sure(f"Remove {named} from {whole} for good?", yes)
    with session.client() as client:
        told = client.delete_images(dataset, paths)
    if as_json:
        emit(told)
        return
    session.out.print(f"{whole}: {told.removed} removed; {_holds(told.dataset)}", markup=False)


@group.command()
def delete(ctx: typer.Context, dataset: Id, yes: Yes = False, as_json: Json = False) -> None:
    """Remove a dataset for good, and what was indexed of it; models that learned from it stay."""
    session = Session.of(ctx)
    whole = dataset_name(short(dataset))
    make_sure(f"Remove {whole} for good?", yes)
    with session.client() as client:
        client.delete_dataset(dataset)
    if as_json:
        emit({"removed": whole})
    else:
        session.out.print(f"{whole} is gone", markup=False)


def _create(client: Client, dataset_id: str, category: str) -> None:
    try:
        client.create_dataset(dataset_id, category=category)
    except AlreadyExists:
        there = client.dataset(dataset_id)
        if category and there.category != category:
            raise Failure(
                f"{there.name} holds {there.category}, not {category}; choose another id"
            ) from None


def _send(
    session: Session, client: Client, dataset: str, folder: Path, found: Layout
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
            f"upload {short(dataset)}", total=found.size_bytes, images=f"0/{len(found.images)}"
        )

        def on_image(image: ImageFile) -> None:
            nonlocal sent
            sent += 1
            progress.update(bar, advance=image.size_bytes, images=f"{sent}/{len(found.images)}")

        try:
            return client.upload(dataset, folder, on_image=on_image)
        except OSError as error:
            raise Failure(f"cannot read {error.filename}: {error.strerror}") from error
        except KeyboardInterrupt:
            complain("what arrived is kept; the same command again sends the rest")
            raise


def _say_stored(session: Session, told: UploadImagesResponse | ImportDatasetResponse) -> None:
    session.out.print(
        f"{dataset_name(short(told.dataset.name))}: {told.stored} stored, {told.unchanged} were there; "
        f"{_holds(told.dataset)}",
        markup=False,
    )


def _holds(dataset: Dataset) -> str:
    tested = sum(kind.images for kind in dataset.test_images)
    return f"now {dataset.train_images} to train on, {tested} to test with, {dataset.masks} masks"
