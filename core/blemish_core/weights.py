# SPDX-License-Identifier: Apache-2.0
"""Bring a backbone's weights into the store: ``python -m blemish_core.weights import resnet18 FILE``."""

import argparse
import sys
from pathlib import Path

from blemish_core.errors import BlemishError
from blemish_core.settings import StackSettings


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="blemish weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    bring = commands.add_parser("import", help="check a file of weights and keep it in the store")
    bring.add_argument("name", help="a timm model: resnet18, wide_resnet50_2, ...")
    bring.add_argument("file", type=Path, help=".safetensors, or a torch state dict")
    bring.add_argument("--store", type=Path, help="the store's folder (BLEMISH_STORE)")
    asked = parser.parse_args(arguments)
    if not asked.file.is_file():
        print(f"blemish: there is no file {asked.file}", file=sys.stderr)
        return 2
    from blemish_core.detectors.backbone import import_weights

    settings = StackSettings(store=asked.store) if asked.store else StackSettings()
    try:
        kept = import_weights(asked.name, asked.file, settings.weights)
    except BlemishError as error:
        print(f"blemish: {error}", file=sys.stderr)
        return 2
    print(f"{asked.name} is in {kept}; train jobs may name it as their backbone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
