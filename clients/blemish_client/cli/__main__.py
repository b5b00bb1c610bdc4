# SPDX-License-Identifier: Apache-2.0
"""Entry point of the ``blemish`` command."""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

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
    try:
        app(prog_name="blemish")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _leave_full_disk(error)


def _leave_full_disk(error: OSError) -> NoReturn:
    """Report that the output, or a file, cannot be written, and exit with code 1."""
    with suppress(OSError):
        print(
            f"blemish: cannot write {error.filename or 'the output'} ({error.strerror}); free some space",
            file=sys.stderr,
            flush=True,
        )
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - the text in its buffer would fail again
    sys.exit(1)


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
