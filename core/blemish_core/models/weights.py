# SPDX-License-Identifier: Apache-2.0
"""Bring weights and photographs into the store: ``python -m blemish_core.models.weights --help``."""

import argparse
import sys
from pathlib import Path

from blemish_core.platform.errors import BlemishError
from blemish_core.settings import StackSettings


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    asked = _parser().parse_args(arguments)
    settings = StackSettings(store=asked.store) if asked.store else StackSettings()
    try:
        if asked.command == "import":
            return _import(asked.name, asked.file, settings.weights)
        return _fetch(asked.what, settings.weights)
    except BlemishError as error:
        print(f"blemish: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="blemish weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    bring = commands.add_parser("import", help="check a file of weights and keep it in the store")
    bring.add_argument(
        "name",
        help="a timm model (resnet18, wide_resnet50_2, ...), or efficientad-small or efficientad-medium "
        "for a teacher",
    )
    bring.add_argument("file", type=Path, help=".safetensors, or a torch state dict")
    fetch = commands.add_parser("fetch", help="download what is known, check its SHA-256, keep it")
    fetch.add_argument(
        "what",
        choices=("efficientad", "imagenette"),
        help="EfficientAD's official teachers (40 MB), or photographs for its training (1.6 GB)",
    )
    for command in (bring, fetch):
        command.add_argument("--store", type=Path, help="the store's folder (BLEMISH_STORE)")
    return parser


def _import(name: str, file: Path, weights: Path) -> int:
    if not file.is_file():
        print(f"blemish: there is no file {file}", file=sys.stderr)
        return 2
    from blemish_core.detectors.common import backbone
    from blemish_core.detectors.efficientad import teacher

    sizes = {teacher.weights_name(size): size for size in teacher.SIZES}
    if name in sizes:
        kept = teacher.import_weights(sizes[name], file, weights)
        use = f"EfficientAD of size {sizes[name]} learns from it from now on"
    else:
        kept = backbone.import_weights(name, file, weights)
        use = "train jobs may name it as their backbone"
    print(f"{name} is in {kept}; {use}")
    return 0


def _fetch(what: str, weights: Path) -> int:
    from blemish_core.models import downloads

    def told(done: int, total: int) -> None:
        of = f" of {total >> 20}" if total else ""
        print(f"\r{done >> 20}{of} MiB", end="", file=sys.stderr, flush=True)

    if what == "efficientad":
        kept = downloads.fetch_teachers(weights, told)
        print(f"\nEfficientAD learns from {', '.join(map(str, kept))} from now on")
    else:
        folder = downloads.fetch_photographs(weights, told)
        print(f"\nEfficientAD learns what is not the surface from {folder} from now on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
