# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_client.demo.surfaces FOLDER``: write synthetic data sets into FOLDER."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from blemish_client.demo.surfaces import CATEGORIES, generate


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data sets asked for; the exit status, 2 if they cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m blemish_client.demo.surfaces",
        description="Write synthetic images of flat surfaces in MVTec AD's layout.",
    )
    parser.add_argument("folder", type=Path, help="gets one folder a category")
    parser.add_argument(
        "--category", action="append", choices=CATEGORIES, help="repeatable; all if not given"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=80, help="good images to learn from")
    parser.add_argument("--good", type=int, default=20, help="good images to test with")
    parser.add_argument("--defective", type=int, default=32, help="spread over the classes")
    parser.add_argument("--size", type=int, default=256, help="sides of an image in pixels")
    wanted = parser.parse_args(arguments)
    for category in dict.fromkeys(wanted.category or CATEGORIES):
        try:
            generate(
                wanted.folder / category,
                category,
                seed=wanted.seed,
                train=wanted.train,
                good=wanted.good,
                defective=wanted.defective,
                size=wanted.size,
            )
        except (ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 2
        print(
            f"{category}: {wanted.train} training, {wanted.good} good and {wanted.defective} "
            f"defective images, all synthetic, seed {wanted.seed}, in {wanted.folder / category}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
