# SPDX-License-Identifier: Apache-2.0
"""Failures of commands: a message on stderr and an exit code."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from blemish_client import errors
from blemish_client.cli.wording import in_options
from blemish_client.errors import BlemishError
from blemish_client.transport.tls_probe import answers_with_tls
from blemish_layouts.names import printable

UNSUCCESSFUL, BAD_INPUT, NOT_FOUND, NO_SERVER, INTERNAL, NOT_ALLOWED, PARTLY = 1, 2, 3, 4, 5, 6, 7
INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 success; 1 a job failed, or --fail-on-anomaly found an anomaly; 2 wrong usage or bad "
    "input; 3 not found; 4 the server is unreachable or overloaded; 5 internal error; 6 not authenticated "
    "or not allowed; 7 partly done, because some images were skipped or refused; 130 interrupted. "
    "Names may be short: tile for datasets/tile, m/3 for models/m/versions/3. "
    "latest is the newest job, item or version, as in m/latest."
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
    """A failure of the command line itself: the message to print and the exit code."""

    def __init__(self, line: str, code: int = BAD_INPUT) -> None:
        super().__init__(line)
        self.code = code


class Commands(TyperGroup):
    """A group of commands whose failures are printed without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BlemishError as error:
            print_error(describe(error))
            raise typer.Exit(exit_code(error)) from error
        except Failure as failure:
            print_error(str(failure))
            raise typer.Exit(failure.code) from failure
        except KeyboardInterrupt:
            print_error("interrupted")
            raise typer.Exit(INTERRUPTED) from None


def confirm_deletion(target: str, *, yes: bool) -> None:
    """Ask the user to confirm a deletion, unless ``yes`` is set.

    Raises:
        Failure: if the user declines, or cannot be asked because stdin is not a terminal.
    """
    if yes:
        return
    if not can_ask():
        raise Failure(f"cannot ask for confirmation without a terminal; pass --yes to delete {target}")
    if not typer.confirm(f"Permanently delete {target}?", err=True):
        raise Failure("nothing was deleted", UNSUCCESSFUL)


def can_ask() -> bool:
    """Return whether stdin is a terminal."""
    return sys.stdin.isatty()


def print_error(line: str) -> None:
    """Print an error on stderr; its first line begins with the name of the program."""
    print(f"blemish: {line}", file=sys.stderr, flush=True)


def exit_code(error: BlemishError) -> int:
    if error.reason == errors.TOO_LARGE:
        return BAD_INPUT
    return next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL)


def describe(error: BlemishError) -> str:
    """Return an error and its remedy in one line, followed by the indented lines of the message.

    The parser of filters indents its excerpt and the caret below it.
    """
    lines = error.message.splitlines() or [""]
    excerpt = [line.rstrip() for line in lines if line[:1].isspace() and line.strip()]
    sentence = " ".join(" ".join(line for line in lines if not line[:1].isspace()).split())
    return "\n".join([in_options(_with_remedy(error, sentence)), *map(printable, excerpt)])


def _with_remedy(error: BlemishError, line: str) -> str:
    if isinstance(error, errors.Unavailable) and line.startswith(errors.UNREACHABLE):
        return _describe_unreachable(line)
    if isinstance(error, errors.Unavailable) and line.startswith(errors.TLS_FAILED):
        return _describe_failed_handshake(line)
    if isinstance(error, errors.InternalError):
        return f"the server failed: {line}; see its log for details"
    if error.retry_after_s is not None:
        return f"{line}; retry in {error.retry_after_s:.0f} s"
    return line


def _describe_unreachable(line: str) -> str:
    target = line.removeprefix(errors.UNREACHABLE).strip().partition(": ")[0]
    if answers_with_tls(target):
        return (
            f"the server at {target} requires TLS; connect with --roots FILE, the certificate that "
            "verifies it, or with --tls if a public authority issued it"
        )
    return f"{line}; start a server with `blemish up`, or set its address with --server HOST:PORT"


def _describe_failed_handshake(line: str) -> str:
    if errors.WITHOUT_TLS in line:
        return f"{line} (leave out --tls and --roots, and unset BLEMISH_TLS and BLEMISH_ROOTS)"
    if errors.WRONG_NAME in line:
        return f"{line}; set --server to a name that is in the server's certificate"
    return f"{line}; pass the server's root certificate with --roots FILE"
