# SPDX-License-Identifier: Apache-2.0
"""Write the Python stubs next to their .proto files: ``python protos/generate.py``.

A stub imports its siblings by the path of the .proto file, so the folders below ``protos/`` spell the
Python package (``blemish/v1`` is ``blemish.v1``) and no import has to be rewritten afterwards.
"""

import os
import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO_ROOT = Path(__file__).parent


def generate(destination: Path = PROTO_ROOT) -> None:
    """Write the stubs of every .proto file below ``protos/`` under ``destination``."""
    # The plugins of mypy-protobuf are scripts that lie beside this interpreter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    exit_code = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--python_out={destination}",
            f"--grpc_python_out={destination}",
            f"--mypy_out=quiet:{destination}",
            f"--mypy_grpc_out=quiet:{destination}",
            *sorted(str(path) for path in PROTO_ROOT.rglob("*.proto")),
        ]
    )
    if exit_code:
        sys.exit(exit_code)


if __name__ == "__main__":
    generate()
