# SPDX-License-Identifier: Apache-2.0
"""Entry point of the ``blemish`` command."""

import os
import sys

_EXTRA = frozenset({"typer", "rich"})


def main() -> None:
    """Run the command line and exit with its code."""
    _silence_grpc()
    try:
        from blemish_client.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(
            f"blemish: {error.name} is not installed; install the command line with: "
            "pip install 'blemish[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    app(prog_name="blemish")


def _silence_grpc() -> None:
    """Keep gRPC's own log out of the terminal, unless the user asks for it. Call this before its import.

    The variable is set for this process alone: the servers that `blemish up` starts have log files.
    """
    if "GRPC_VERBOSITY" not in os.environ:
        os.putenv("GRPC_VERBOSITY", "NONE")


if __name__ == "__main__":
    if not sys.flags.safe_path:
        # ``python -m`` puts the working directory first, where a file could shadow a module.
        del sys.path[0]
    main()
