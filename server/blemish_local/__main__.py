# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_local up``: the embedded stack without the client's command line."""

import typer

from blemish_core.platform.system import require_linux

require_linux("blemish up")

from blemish_local.commands import app as up  # noqa: E402  # it needs Linux

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(up)


@app.callback()
def _require_command() -> None:
    """Run the embedded stack."""


if __name__ == "__main__":
    app(prog_name="blemish")
