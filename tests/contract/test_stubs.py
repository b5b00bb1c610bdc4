# SPDX-License-Identifier: Apache-2.0
"""The committed stubs are what the .proto files generate."""

import runpy
from pathlib import Path

PROTOS = Path(__file__).parents[2] / "protos"


def stubs_below(folder: Path) -> dict[Path, str]:
    return {
        path.relative_to(folder): path.read_text()
        for pattern in ("*_pb2*.py", "*_pb2*.pyi")
        for path in folder.rglob(pattern)
    }


def test_stubs_are_fresh(tmp_path: Path) -> None:
    runpy.run_path(str(PROTOS / "generate.py"))["generate"](tmp_path)
    assert stubs_below(tmp_path) == stubs_below(PROTOS)
    assert stubs_below(PROTOS)
