# SPDX-License-Identifier: Apache-2.0
"""Output of commands: JSON for programs, tables for people.

JSON has the field names of the contract, and values that scripts need not convert: see ``plain``.
"""

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.table import Table

from blemish.v1.image_pb2 import VERDICT_UNSPECIFIED, Verdict
from blemish.v1.inspection_pb2 import Consensus, Inspection, InspectionEvent
from blemish.v1.job_pb2 import EstimateTrainingResponse, Job, JobEvent, JobState
from blemish.v1.model_pb2 import ClassMetrics, Metrics
from blemish_client.cli.choices import spell
from blemish_client.names import short
from blemish_client.streaming.ledger import FrameResult, LostFrames

ABSENT = "-"


_INTEGERS = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def plain(message: Message) -> dict[str, Any]:
    """Return the fields of a message for JSON, under the names of the contract.

    It differs from protobuf's own mapping in three points. Values of enums are spelled as on the command
    line, such as ``anomalous``, and null if unspecified. Integers of 64 bits are numbers. Durations are
    numbers of seconds, under names that end in ``_s``.
    """
    fields: dict[str, Any] = MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        use_integers_for_enums=True,
    )
    return _plain_fields(message.DESCRIPTOR, fields)  # type: ignore[arg-type]


def _plain_fields(kind: Descriptor, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{field.name}_s" if _is_a(field, Duration) else field.name: _plain_value(field, fields[field.name])
        for field in kind.fields
        if field.name in fields
    }


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(field, each) for each in value]
    if field.message_type is None:
        if field.enum_type is not None:
            return _spelling(field.enum_type, value)
        return int(value) if field.cpp_type in _INTEGERS else value
    if field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        return {key: _plain_value(entry, each) for key, each in value.items()}
    if _is_a(field, Duration):
        return float(value.removesuffix("s"))
    return value if _is_a(field, Timestamp) else _plain_fields(field.message_type, value)


def _is_a(field: FieldDescriptor, kind: type[Message]) -> bool:
    return field.message_type is not None and field.message_type.full_name == kind.DESCRIPTOR.full_name


def _spelling(enum: EnumDescriptor, value: int) -> str | int | None:
    """Return the spelling of a value, None if it is unspecified, or a number that a newer server sent."""
    if value not in enum.values_by_number:
        return value
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    spelled = enum.values_by_number[value].name.removeprefix(prefix).replace("_", "-").lower()
    return None if spelled == "unspecified" else spelled


def emit(result: Message | dict[str, Any]) -> None:
    """Print one line of JSON on stdout."""
    print(json.dumps(plain(result) if isinstance(result, Message) else result), file=sys.stdout)
    sys.stdout.flush()


_PICTURES = ("anomaly_map", "embedding", "mask", "preview")


def inspection_fields(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection for JSON, without pictures and the embedding."""
    fields = plain(inspection)
    for name in _PICTURES:
        fields.pop(name, None)
    return fields


def frame_fields(result: FrameResult | LostFrames) -> dict[str, Any]:
    """Return a result of a stream for JSON: an inspection, an error, or a number of frames without one."""
    fields: dict[str, Any] = {"image": result.name} if len(result.names) == 1 else {}
    if len(result.names) > 1:
        fields["images"] = list(result.names)
    if isinstance(result, LostFrames):
        return fields | {"lost": list(result.sequences), "cause": result.cause}
    answer = plain(result.answer)
    header = ("camera", "sequence", "capture_time")
    fields |= {name: answer[name] for name in header if name in answer}
    match result.answer.WhichOneof("answer"):
        case "inspection":
            fields |= inspection_fields(result.answer.inspection)
        case "refusal":
            refusal = answer["refusal"]
            fields |= {"error": refusal.pop("message"), **refusal}
        case "dropped":
            last = result.answer.dropped.last_sequence
            fields |= {"dropped": last - result.answer.sequence + 1, "last_sequence": last}
    return fields | {"latency_ms": round(1000 * result.latency_s, 2)}


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


def duration(seconds: float) -> str:
    """Return a time such as 45 s, 12 min or 3 h 20 min."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def estimate_lines(answer: EstimateTrainingResponse) -> list[str]:
    """Return sentences about the cost of a training and of a frame of its model."""
    if not answer.HasField("estimate"):
        return [f"no estimate: {answer.reason}"]
    found = answer.estimate
    phases = ", ".join(
        f"{phase.name} {duration(phase.duration.ToMilliseconds() / 1000)}" for phase in found.phases
    )
    place = "one thread of " * (found.device == "cpu") + found.processor
    frame = f"{found.frame_width} x {found.frame_height} px"
    frame_ms = found.frame.ToMicroseconds() / 1000
    entries = f" with {found.bank_entries:,} entries in the memory bank" * bool(found.bank_entries)
    return [
        f"the training takes about {duration(found.training.ToMilliseconds() / 1000)} on {found.worker}: "
        f"{phases}",
        f"a frame of {frame} takes about {frame_ms:.0f} ms on {place}{entries}",
    ]


def when(time: Timestamp) -> str:
    """Return a local time to the second, or ABSENT if it is not set."""
    if not time.seconds:
        return ABSENT
    return datetime.fromtimestamp(time.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def clock(time: Timestamp) -> str:
    """Return the local time of the day to the second."""
    return datetime.fromtimestamp(time.seconds, UTC).astimezone().strftime("%H:%M:%S")


def log_line(line: str) -> str:
    """Return a log line for people: an entry in JSON as its time, event and values, others unchanged."""
    try:
        entry = json.loads(line)
        event, begin = str(entry.pop("event")), datetime.fromisoformat(entry.pop("timestamp"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return line
    values = [f"{name}={value}" for name, value in entry.items() if name not in ("job", "level")]
    return " ".join([begin.astimezone().strftime("%Y-%m-%d %H:%M:%S"), event, *values])


def verdict(value: Verdict.ValueType) -> str:
    return ABSENT if value == VERDICT_UNSPECIFIED else spell(Verdict, value)


def defect_class(inspection: Inspection | InspectionEvent) -> str:
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
