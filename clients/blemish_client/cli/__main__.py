# SPDX-License-Identifier: Apache-2.0
"""Entry point of the ``blemish`` command."""

import sys

_EXTRA = frozenset({"typer", "rich"})


def main() -> None:
    """Run the command line and exit with its code."""
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


if __name__ == "__main__":
    if not sys.flags.safe_path:
        # ``python -m`` puts the working directory first, where a file could shadow a module.
        del sys.path[0]
    main()
