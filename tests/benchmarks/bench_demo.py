# SPDX-License-Identifier: Apache-2.0
"""Run the demo and keep its tables: detection, search and the time of each stage.

python -m tests.benchmarks.bench_demo [--data FOLDER] [--seed 0]
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.report import parser, section


def without_pictures(page: str) -> str:
    """Return the demo's page without its title and pictures, and one level of headings deeper."""
    _, _, text = page.partition("\n")
    return re.sub(r"^#", "##", text.split("\n## Pictures")[0], flags=re.MULTILINE).strip()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="images in MVTec AD's layout; default: drawn surfaces")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    command = [sys.executable, "-P", "-m", "blemish_client.cli", "demo", "--seed", str(arguments.seed)]
    if arguments.data:
        command += ["--data", str(arguments.data)]
    with tempfile.TemporaryDirectory() as made, section("bench_demo", "Demo", arguments) as report:
        began = time.perf_counter()
        subprocess.run([*command, "--output", made], check=True, stdout=subprocess.DEVNULL)
        report.write(f"The whole demo took {time.perf_counter() - began:.0f} s.\n")
        report.write(without_pictures((Path(made) / "results.md").read_text()))


if __name__ == "__main__":
    main()
