# SPDX-License-Identifier: Apache-2.0
"""``blemish audit``: the calls that changed something or were denied."""

from itertools import islice
from typing import Annotated

import grpc
import typer
from rich.markup import escape

from blemish.v1.access_pb2 import ROLE_UNSPECIFIED, Role
from blemish.v1.audit_pb2 import AuditEntry
from blemish_client.cli.choices import spell
from blemish_client.cli.options import Json
from blemish_client.cli.output import emit, table, when
from blemish_client.cli.session import Session
from blemish_client.cli.times import AGE_HELP, parse_time

_SHOWN = 50
_MOST_RESOURCES = 3
_CODES = {code.value[0]: code.name.replace("_", "-").lower() for code in grpc.StatusCode}


def audit(
    ctx: typer.Context,
    caller: Annotated[
        str, typer.Option(metavar="NAME", help="Show only calls of this caller, or of this address.")
    ] = "",
    action: Annotated[
        str, typer.Option(metavar="RPC", help="Show only this action: promote-model or PromoteModel.")
    ] = "",
    resource: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Show only calls that name this resource, or one in it: models/tile."
        ),
    ] = "",
    since: Annotated[
        str,
        typer.Option(metavar="TIME", help=f"Show only calls since then: {AGE_HELP}."),
    ] = "",
    until: Annotated[
        str, typer.Option(metavar="TIME", help="Show only calls before then, written as for --since.")
    ] = "",
    failed: Annotated[
        bool, typer.Option("--failed", help="Show only calls that failed or were denied.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "-n", "--limit", min=1, help="Number of calls.", show_default="50, or all with --json"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the calls that changed something or were denied, the last one first.

    With --json it prints the whole log, one call per line.

    Example: blemish audit --resource models/tile-patchcore --since 7d
    """
    session = Session.of(ctx)
    start, end = parse_time(since, "--since"), parse_time(until, "--until")
    most = limit or (None if as_json else _SHOWN)
    rows = table("time", "caller", "action", "resources", "status", "details")
    with session.client() as client:
        entries = client.audit_entries(
            caller=caller,
            action=_camel_case(action),
            resource=resource,
            start=start,
            end=end,
            only_failed=failed,
        )
        for entry in islice(entries, most):
            if as_json:
                emit(entry)
            else:
                rows.add_row(*map(_printable, _cells(entry)))
    if not as_json:
        session.out.print(rows if rows.row_count else "no calls")


def _cells(entry: AuditEntry) -> tuple[str, ...]:
    names, left = list(entry.resources[:_MOST_RESOURCES]), len(entry.resources) - _MOST_RESOURCES
    if left > 0:
        names.append(f"and {left} more")
    role = f" ({spell(Role, entry.role)})" if entry.role != ROLE_UNSPECIFIED else ""
    details = [f"{name}={value}" for name, value in sorted(entry.details.items())]
    if entry.message:
        details.append(entry.message)
    if entry.suppressed:
        details.append(f"and {entry.suppressed} more like this within a minute")
    return (
        when(entry.time),
        f"{entry.caller}{role}",
        entry.action,
        ", ".join(names),
        _status(entry),
        "; ".join(details),
    )


def _status(entry: AuditEntry) -> str:
    if not entry.HasField("end_time"):
        return "not ended"
    return _CODES.get(entry.code, str(entry.code))


def _printable(text: str) -> str:
    """Return a text of a caller without control characters and markup."""
    return escape("".join(each if each.isprintable() else "?" for each in text))


def _camel_case(action: str) -> str:
    """Return the name of an RPC: PromoteModel for promote-model."""
    return "".join(word[:1].upper() + word[1:] for word in action.split("-"))
