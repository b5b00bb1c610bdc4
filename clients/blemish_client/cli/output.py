# SPDX-License-Identifier: Apache-2.0
"""Output of commands: JSON for programs, tables for people."""

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.table import Table

from blemish.v1.image_pb2 import VERDICT_UNSPECIFIED, Verdict
from blemish.v1.inspection_pb2 import Consensus, Inspection
from blemish.v1.job_pb2 import Job, JobEvent, JobState
from blemish.v1.model_pb2 import ClassMetrics, Metrics
from blemish_client.cli.choices import spell
from blemish_client.names import short

ABSENT = "-"


def plain(message: Message) -> dict[str, Any]:
    """Return a message in protobuf's JSON mapping, with the field names of the contract."""
    fields: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return fields


def emit(result: Message | dict[str, Any]) -> None:
    """Print one line of JSON on stdout."""
    print(json.dumps(plain(result) if isinstance(result, Message) else result), file=sys.stdout)
    sys.stdout.flush()


def table(*columns: str, title: str | None = None, right: Iterable[str] = ()) -> Table:
    """Return an empty table. The columns named in ``right`` are right-aligned."""
    numbers = set(right)
    empty = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        empty.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return empty


def number(value: float | None, digits: int = 3) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.1f} %"


def size(size_bytes: int) -> str:
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def when(time: Timestamp) -> str:
    """Return a local time to the second, or ABSENT if it is not set."""
    if not time.seconds:
        return ABSENT
    return datetime.fromtimestamp(time.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def verdict(value: Verdict.ValueType) -> str:
    return ABSENT if value == VERDICT_UNSPECIFIED else spell(Verdict, value)


def defect_class(inspection: Inspection) -> str:
    """Return the most likely class of a defect with its share, or the reason why it is unknown."""
    if not inspection.HasField("defect_class"):
        return ABSENT
    found = inspection.defect_class
    if not found.class_name:
        return f"unknown ({spell(Consensus, found.consensus).replace('-', ' ')})"
    name = "".join(each if each.isprintable() else " " for each in found.class_name)
    return f"{name} ({100 * found.share:.0f} % of {found.neighbors})"


def state(of: Job | JobEvent) -> str:
    return spell(JobState, of.state)


def work(job: Job) -> str:
    """Return a short description of a job's work."""
    match job.WhichOneof("work"):
        case "train":
            model = f" as {job.train.model_id}" if job.train.model_id else ""
            return f"train {short(job.train.dataset)}{model}"
        case "embed":
            images = "kept frames" if job.embed.kept_frames else short(job.embed.dataset)
            return f"embed {images} with {short(job.embed.model)}"
        case "evaluate":
            return f"evaluate {short(job.evaluate.model)} on {short(job.evaluate.dataset)}"
        case _:
            return ABSENT


def optional(metrics: Metrics | ClassMetrics, name: str) -> float | None:
    """Return a metric by name, or None if it is not set."""
    return getattr(metrics, name) if metrics.HasField(name) else None  # type: ignore[arg-type]
