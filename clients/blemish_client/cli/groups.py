# SPDX-License-Identifier: Apache-2.0
"""Groups of commands that also list without a subcommand."""

from typing import Any, cast

import typer

from blemish_client.cli.failures import Failure


def has_subcommand(ctx: typer.Context) -> bool:
    """Return whether a subcommand follows; it gets the options before it, as if they came after it.

    Raises:
        Failure: if it does not have one of them.
    """
    if ctx.invoked_subcommand is None:
        return False
    given = {name: value for name, value in ctx.params.items() if _is_given(ctx, name)}
    command = cast(Any, ctx.command).get_command(ctx, ctx.invoked_subcommand)
    accepted = {parameter.name for parameter in command.params}
    for parameter in ctx.command.params:
        if parameter.name in given and parameter.name not in accepted:
            raise Failure(
                f"{parameter.opts[-1]} is not an option of "
                f"`blemish {ctx.info_name} {ctx.invoked_subcommand}`; leave it out"
            )
    ctx.default_map = {**(ctx.default_map or {}), ctx.invoked_subcommand: given}
    return True


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
