# SPDX-License-Identifier: Apache-2.0
"""``blemish access``: the credentials of one server, kept in its access file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from blemish_core.platform.command_line import errors_as_exit_codes, fail
from blemish_server.auth import access
from blemish_server.auth.access import PRIORITIES, Role
from blemish_server.auth.limits import CallerLimits

_VARIABLE = "BLEMISH_ACCESS_FILE"

app = typer.Typer(
    help="Manage the credentials of a server on this machine. The server applies changes within a second.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AccessFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar=_VARIABLE,
        metavar="FILE",
        help="Access file of the server.",
        show_default=False,
    ),
]


Streams = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Most calls in progress at once, streams among them.")
]
RequestsPerSecond = Annotated[
    float | None,
    typer.Option(min=0.001, metavar="N", help="Most calls and messages of streams per second."),
]
BytesPerSecond = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Most bytes of requests per second.")
]
QueuedJobs = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Most jobs that wait for a worker.")
]


class RoleName(StrEnum):
    """The roles as the command line spells them."""

    CAMERA = "camera"
    SERVICE = "service"
    OPERATOR = "operator"


class PriorityName(StrEnum):
    """The priorities as the command line spells them."""

    LINE_STOP = "line-stop"
    AUDIT = "audit"
    BACKFILL = "backfill"


@app.command()
def grant(
    name: Annotated[
        str, typer.Argument(help="Name of a machine or service, such as press-7, mes or line-office.")
    ],
    role: Annotated[
        RoleName,
        typer.Option(
            metavar="ROLE",
            help="A camera sends frames. A service also reads everything and searches. "
            "An operator also trains, promotes and calibrates.",
        ),
    ],
    most_urgent: Annotated[
        PriorityName,
        typer.Option(
            metavar="PRIORITY",
            help="Highest priority of its images: line-stop, audit or backfill.",
        ),
    ] = PriorityName.LINE_STOP,
    streams: Streams = None,
    requests_per_second: RequestsPerSecond = None,
    bytes_per_second: BytesPerSecond = None,
    queued_jobs: QueuedJobs = None,
    file: AccessFile = None,
) -> None:
    """Create a credential and print its token.

    Example: blemish access grant press-7 --role camera
    """
    with _opened(file) as path:
        limits = CallerLimits(
            streams=streams,
            requests_per_second=requests_per_second,
            bytes_per_second=bytes_per_second,
            queued_jobs=queued_jobs,
        )
        token = access.grant(path, name, Role[role.name], PRIORITIES[most_urgent], limits)
    print(f"{name} may call as {role}; the token is shown only once:", file=sys.stderr)
    print(token)


@app.command()
def limit(
    name: Annotated[str, typer.Argument(help="Name of the credential.")],
    streams: Streams = None,
    requests_per_second: RequestsPerSecond = None,
    bytes_per_second: BytesPerSecond = None,
    queued_jobs: QueuedJobs = None,
    file: AccessFile = None,
) -> None:
    """Replace the limits of a credential. Without options it has none.

    Example: blemish access limit press-7 --streams 4 --requests-per-second 60
    """
    limits = CallerLimits(
        streams=streams,
        requests_per_second=requests_per_second,
        bytes_per_second=bytes_per_second,
        queued_jobs=queued_jobs,
    )
    with _opened(file) as path:
        access.set_limits(path, name, limits)
    print(
        f"limits of {name}: {limits if str(limits) else 'none'}; servers apply them within a second",
        file=sys.stderr,
    )


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the credential.")], file: AccessFile = None
) -> None:
    """Delete a credential and end its streams.

    Example: blemish access revoke press-7
    """
    with _opened(file) as path:
        access.revoke(path, name)
    print(f"{name} is revoked; servers apply this within a second", file=sys.stderr)


@app.command("list")
def list_credentials(file: AccessFile = None) -> None:
    """Print each credential: name, role, highest priority, creation time (UTC) and limits.

    Tabs separate the columns.

    Example: blemish access list
    """
    with _opened(file) as path:
        for name, entry in sorted(access.read_credentials(path).items()):
            print(
                f"{name}\t{entry.role}\t{entry.most_urgent}\t{entry.granted:%Y-%m-%d %H:%M}\t{entry.limits}"
            )


@contextmanager
def _opened(file: Path | None) -> Iterator[Path]:
    if file is None:
        fail(f"no access file was given; set --file or {_VARIABLE}")
    try:
        with errors_as_exit_codes():
            yield file
    except OSError as error:
        fail(f"{file}: {error.strerror}")


if __name__ == "__main__":
    app(prog_name="blemish access")
