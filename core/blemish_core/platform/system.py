# SPDX-License-Identifier: Apache-2.0
"""The systems on which server and workers run."""

import sys


def require_linux(command: str) -> None:
    """Exit with code 2 and the reason if this system is not Linux.

    Server and workers use file locks, process groups and /proc as Linux has them. Call this before the
    import of a module that needs them.
    """
    if sys.platform == "linux":
        return
    print(
        f"{command}: it runs on Linux only, and this system is {sys.platform}; run it in a container or in "
        "WSL, and connect from here with the client",
        file=sys.stderr,
    )
    sys.exit(2)
