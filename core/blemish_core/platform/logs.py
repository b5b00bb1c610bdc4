# SPDX-License-Identifier: Apache-2.0
"""Structured logs on standard error: text in a terminal, JSON elsewhere.

Logging never raises. A record that cannot be formatted is named in its place, and one that cannot be
written is counted.
"""

import logging
import sys
from typing import Any

import structlog

from blemish_core.platform.lossy_output import replace_standard_streams


def configure(level: str = "INFO") -> None:
    """Configure structlog and the standard library to log to standard error in the same format.

    From then on, nothing that this process prints raises because it cannot be written.
    """
    replace_standard_streams()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=_never_raising(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _never_raising(level: int) -> type[Any]:
    """Return the class of loggers whose methods raise nothing."""
    filtering: type[Any] = structlog.make_filtering_bound_logger(level)

    class Logger(filtering):  # type: ignore[misc]  # its class is made at run time
        def _proxy_to_logger(self, method_name: str, event: Any = None, *args: Any, **fields: Any) -> Any:
            try:
                return super()._proxy_to_logger(method_name, event, *args, **fields)
            except Exception as error:
                print(f"log record {event!r} not written: {type(error).__name__}", file=sys.stderr)

    return Logger
