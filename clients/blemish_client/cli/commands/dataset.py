# SPDX-License-Identifier: Apache-2.0
"""``blemish dataset``: upload, import, list and delete images."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from blemish.v1.dataset_pb2 import Dataset, ImportDatasetResponse, UploadImagesResponse
from blemish_client.cli.failures import Failure, confirm_deletion, print_error
from blemish_client.cli.options import DatasetArgument, Json, Yes
from blemish_client.cli.output import emit, plain, size, table, when
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.errors import AlreadyExists
from blemish_client.names import dataset_name, short
from blemish_client.transport.upload import ImageFile, Layout, scan_folder

group = typer.Typer(help="Upload, import, list and delete images.", no_args_is_help=True)

Category = Annotated[
    str, typer.Option(help="Kind of surface, for example tile.", show_default="the dataset's id")
]
_MAX_SKIPPED_SHOWN = 5


@group.command("import")
def import_(
    ctx: typer.Context,
    dataset: DatasetArgument,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder on the server, inside an import root.")
    ],
    category: Category = "",
    as_json: Json = False,
) -> None:
    """Import a folder of the server's file system in MVTec AD's layout.

    Example: blemish dataset import tile /srv/images/tile
    """
    session = Session.of(ctx)
    with session.client() as client, session.err.status(f"importing {folder}"):
        result = client.import_dataset(
            short(dataset), str(folder.expanduser().absolute()), category=category
        )
    if as_json:
        emit(result)
        return
    _print_stored(session, result)
    for skipped in result.skipped[:_MAX_SKIPPED_SHOWN]:
        session.err.print(f"skipped {skipped.path}: {skipped.reason}", markup=False)
    if result.skipped_count > _MAX_SKIPPED_SHOWN:
        session.err.print(f"skipped {result.skipped_count} files in total")


@group.command()
def upload(
    ctx: typer.Context,
    dataset: DatasetArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder on this machine.")],
    category: Category = "",
    as_json: Json = False,
) -> None:
    """Upload a folder of this machine in MVTec AD's layout.

    After a failure, run the command again to upload the remaining images.

    Example: blemish dataset upload tile ~/images/tile
    """
    session = Session.of(ctx)
    try:
        layout = scan_folder(folder)
    except (OSError, ValueError) as error:
        raise Failure(str(error)) from error
    with session.client() as client:
        _create(client, short(dataset), category)
        result = _send(session, client, dataset, folder, layout)
    if as_json:
        emit({**plain(result), "left_out": list(layout.left_out)})
        return
    _print_stored(session, result)
    for path in layout.left_out[:_MAX_SKIPPED_SHOWN]:
        session.err.print(f"skipped {path}: not an image by its suffix", markup=False)
    if len(layout.left_out) > _MAX_SKIPPED_SHOWN:
        session.err.print(f"skipped {len(layout.left_out)} files in total")


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
    rows = table("path", "px", "size", right=("px", "size"))
    with session.client() as client:
        for image in client.images(dataset, under=under):
            if as_json:
                emit(image)
            else:
                rows.add_row(image.path, f"{image.width} x {image.height}", size(image.size_bytes))
    if not as_json:
        session.out.print(rows if rows.row_count else f"no images{under and f' under {under}'}")


@group.command()
def remove(
    ctx: typer.Context,
    dataset: DatasetArgument,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Paths from `images`, for example train/good/003.png."),
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


def _create(client: Client, dataset_id: str, category: str) -> None:
    try:
        client.create_dataset(dataset_id, category=category)
    except AlreadyExists:
        existing = client.dataset(dataset_id)
        if category and existing.category != category:
            raise Failure(
                f"{existing.name} has the category {existing.category}, not {category}; choose another id"
            ) from None


def _send(
    session: Session, client: Client, dataset: str, folder: Path, layout: Layout
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
            return client.upload(dataset, folder, on_image=on_image)
        except OSError as error:
            raise Failure(f"cannot read {error.filename}: {error.strerror}") from error
        except KeyboardInterrupt:
            print_error("uploaded images are kept; run the command again to upload the rest")
            raise


def _print_stored(session: Session, result: UploadImagesResponse | ImportDatasetResponse) -> None:
    session.out.print(
        f"{dataset_name(short(result.dataset.name))}: {result.stored} stored, {result.unchanged} unchanged"
        f"; {_contents(result.dataset)}",
        markup=False,
    )


def _contents(dataset: Dataset) -> str:
    tested = sum(test_class.images for test_class in dataset.test_images)
    return f"now {dataset.train_images} training images, {tested} test images, {dataset.masks} masks"
