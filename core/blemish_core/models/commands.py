# SPDX-License-Identifier: Apache-2.0
"""``blemish weights``: network weights and photographs for training, kept in the store."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from blemish_core.platform.command_line import errors_as_exit_codes, fail
from blemish_core.settings import StackSettings

app = typer.Typer(
    help="Import or download network weights for training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Store = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of the store; BLEMISH_STORE if not given.", show_default=False
    ),
]


class Download(StrEnum):
    """The names of the known downloads."""

    EFFICIENTAD = "efficientad"
    IMAGENETTE = "imagenette"


@app.command("import")
def import_weights(
    name: Annotated[
        str,
        typer.Argument(
            help="A timm model such as resnet18 or vit_small_patch14_dinov2; efficientad-small or "
            "efficientad-medium for a teacher."
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .safetensors file, a torch state dict or a checkpoint."),
    ],
    store: Store = None,
) -> None:
    """Check a file of weights and keep it in the store.

    Example: blemish weights import resnet18 resnet18.pth --store /srv/blemish/store
    """
    if not file.is_file():
        fail(f"there is no file {file}")
    from blemish_core.detectors.common import backbone
    from blemish_core.detectors.efficientad import teacher
    from blemish_core.detectors.efficientad.settings import SIZES
    from blemish_core.detectors.efficientad.teacher_files import weights_name

    sizes = {weights_name(size): size for size in SIZES}
    with errors_as_exit_codes():
        weights = _weights_folder(store)
        if name in sizes:
            kept = teacher.import_weights(sizes[name], file, weights)
            use = f"EfficientAD of size {sizes[name]} uses it as its teacher from now on"
        else:
            kept = backbone.import_weights(name, file, weights)
            use = "training jobs may name it as their backbone"
    print(f"{name} is in {kept}; {use}")


@app.command()
def fetch(
    what: Annotated[
        Download,
        typer.Argument(
            help="EfficientAD's official teachers (40 MB), or photographs for its training (1.6 GB)."
        ),
    ],
    store: Store = None,
) -> None:
    """Download a known file, check its SHA-256 and keep it in the store.

    Example: blemish weights fetch efficientad
    """
    from blemish_core.models import downloads

    with errors_as_exit_codes():
        weights = _weights_folder(store)
        if what is Download.EFFICIENTAD:
            kept = downloads.fetch_teachers(weights, _print_progress)
            print(f"\nEfficientAD uses {', '.join(map(str, kept))} as its teachers from now on")
        else:
            folder = downloads.fetch_photographs(weights, _print_progress)
            print(f"\nEfficientAD trains with the photographs in {folder} from now on")


def _weights_folder(store: Path | None) -> Path:
    settings = StackSettings(store=store) if store else StackSettings()
    return settings.weights


def _print_progress(done_bytes: int, total_bytes: int) -> None:
    total = f" of {total_bytes >> 20}" if total_bytes else ""
    print(f"\r{done_bytes >> 20}{total} MiB", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    app(prog_name="blemish weights")
