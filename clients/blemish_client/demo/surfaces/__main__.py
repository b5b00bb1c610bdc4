# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_client.demo.surfaces FOLDER``: write synthetic data sets into FOLDER."""

import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer

from blemish_client.demo.surfaces import CATEGORIES, generate

app = typer.Typer(add_completion=False)


class Category(StrEnum):
    """The categories by name, for the command line."""

    TILE = "tile"
    LEATHER = "leather"
    GRID = "grid"


@app.command()
def draw(
    folder: Annotated[Path, typer.Argument(help="Folder that receives one folder for each category.")],
    category: Annotated[
        list[Category], typer.Option(help="Category to draw, may be repeated.", show_default="all")
    ] = [],  # noqa: B006 - Typer needs a list and never changes it
    seed: Annotated[int, typer.Option(help="Seed of all random values.")] = 0,
    train: Annotated[int, typer.Option(help="Number of good training images.")] = 80,
    good: Annotated[int, typer.Option(help="Number of good test images.")] = 20,
    defective: Annotated[int, typer.Option(help="Number of defective images, over all classes.")] = 32,
    size: Annotated[int, typer.Option(help="Side of an image, in pixels.")] = 256,
    processes: Annotated[int, typer.Option(min=1, help="Number of processes that draw.")] = 1,
) -> None:
    """Write synthetic images of flat surfaces in MVTec AD's layout.

    Example: python -m blemish_client.demo.surfaces surfaces --category tile
    """
    with ExitStack() as until_done:
        pool = None
        if processes > 1:
            pool = ProcessPoolExecutor(processes, get_context("spawn"))
            until_done.callback(pool.shutdown, cancel_futures=True)
            # Without this, SIGTERM would leave the pool's processes behind.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        for name in dict.fromkeys(each.value for each in category) or CATEGORIES:
            try:
                generate(
                    folder / name,
                    name,
                    seed=seed,
                    train=train,
                    good=good,
                    defective=defective,
                    size=size,
                    pool=pool,
                )
            except (ValueError, OSError) as error:
                print(error, file=sys.stderr)
                raise typer.Exit(2) from error
            print(
                f"{name}: {train} training, {good} good and {defective} defective images, "
                f"all synthetic, seed {seed}, in {folder / name}",
                flush=True,
            )


if __name__ == "__main__":
    app()
