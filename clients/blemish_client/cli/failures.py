# SPDX-License-Identifier: Apache-2.0
"""How a command fails: one line on stderr with cause and cure, and an exit code that says which."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from blemish_client import errors
from blemish_client.errors import BlemishError

UNSUCCESSFUL, BAD_INPUT, NOT_FOUND, NO_SERVER, INTERNAL, NOT_ALLOWED, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130

EXIT_CODES = (
    "Exit codes: 0 done; 1 the job failed, or --fail-on-anomaly found one; 2 wrong usage or bad "
    "input; 3 no such thing; 4 the server is out of reach or overloaded; 5 internal error; "
    "6 the server does not know who calls, or lets him not do this; 130 interrupted. "
    "Names may be short: tile for datasets/tile, m/3 for models/m/versions/3."
)

_CODES: tuple[tuple[type[BlemishError], int], ...] = (
    (errors.InvalidArgument, BAD_INPUT),
    (errors.AlreadyExists, BAD_INPUT),
    (errors.FailedPrecondition, BAD_INPUT),
    (errors.Aborted, BAD_INPUT),
    (errors.NotFound, NOT_FOUND),
    (errors.Unauthenticated, NOT_ALLOWED),
    (errors.PermissionDenied, NOT_ALLOWED),
    (errors.Unavailable, NO_SERVER),
    (errors.DeadlineExceeded, NO_SERVER),
    (errors.ResourceExhausted, NO_SERVER),
)


class Failure(Exception):
    """The command line's own: the text is the line, ``code`` the exit code."""

    def __init__(self, line: str, code: int = BAD_INPUT) -> None:
        super().__init__(line)
        self.code = code


class Commands(TyperGroup):
    """The commands, with their failures put into words."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BlemishError as error:
            complain(sentence(error))
            raise typer.Exit(exit_code(error)) from error
        except Failure as failure:
            complain(str(failure))
            raise typer.Exit(failure.code) from failure
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None


def make_sure(question: str, yes: bool) -> None:
    """Have a person agree to what cannot be undone, unless ``yes`` says so.

    Raises:
        Failure: if nobody does, or nobody can be asked.
    """
    if yes:
        return
    if not _somebody_is_there():
        raise Failure(f"{question} Nobody is there to be asked: say --yes")
    if not typer.confirm(question, err=True):
        raise Failure("nothing was removed", UNSUCCESSFUL)


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def complain(line: str) -> None:
    print(f"blemish: {line}", file=sys.stderr, flush=True)


def exit_code(error: BlemishError) -> int:
    if error.reason == "TOO_LARGE":
        return BAD_INPUT
    return next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL)


def sentence(error: BlemishError) -> str:
    """Return cause and cure in one line."""
    line = " ".join(error.message.split())
    if isinstance(error, errors.Unavailable) and line.startswith(errors.UNREACHABLE):
        return f"{line}; start one with `blemish up`, or name another with --server HOST:PORT"
    if isinstance(error, errors.Unavailable) and line.startswith(errors.TLS_FAILED):
        return f"{line}; say what vouches for it with --roots FILE, or leave --tls out if it speaks none"
    if isinstance(error, errors.InternalError):
        return f"the server failed: {line}; its log says more"
    if error.retry_after_s is not None:
        return f"{line}; try again in {error.retry_after_s:.0f} s"
    return line
