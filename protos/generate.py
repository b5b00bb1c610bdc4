# SPDX-License-Identifier: Apache-2.0
"""Generate the Python stubs next to their .proto files: ``python protos/generate.py``.

A stub imports others by the path of their .proto file. The folders below ``protos/`` therefore match the
Python package: ``blemish/v1`` is ``blemish.v1``.
"""

import os
import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO_ROOT = Path(__file__).parent


def generate(destination: Path = PROTO_ROOT) -> None:
    """Generate the stubs of all .proto files below ``protos/`` in ``destination``."""
    # The plugins of mypy-protobuf are scripts in the folder of this interpreter.
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
