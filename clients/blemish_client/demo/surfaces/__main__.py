# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_client.demo.surfaces FOLDER``: write synthetic data sets into FOLDER."""

import argparse
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

from blemish_client.demo.surfaces import CATEGORIES, generate


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data sets and return the exit status: 2 if they cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m blemish_client.demo.surfaces",
        description="Write synthetic images of flat surfaces in MVTec AD's layout.",
    )
    parser.add_argument("folder", type=Path, help="receives one folder for each category")
    parser.add_argument(
        "--category", action="append", choices=CATEGORIES, help="repeatable; all if not given"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=80, help="good images to learn from")
    parser.add_argument("--good", type=int, default=20, help="good images to test with")
    parser.add_argument("--defective", type=int, default=32, help="spread over the classes")
    parser.add_argument("--size", type=int, default=256, help="sides of an image in pixels")
    parser.add_argument("--processes", type=int, default=1, help="processes that draw at the same time")
    wanted = parser.parse_args(arguments)
    with ExitStack() as until_done:
        pool = None
        if wanted.processes > 1:
            pool = ProcessPoolExecutor(wanted.processes, get_context("spawn"))
            until_done.callback(pool.shutdown, cancel_futures=True)
            # Without this, SIGTERM would leave the pool's processes behind.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return _write_all(wanted, pool)


def _write_all(wanted: argparse.Namespace, pool: Executor | None) -> int:
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
                pool=pool,
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
