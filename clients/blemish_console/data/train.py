# SPDX-License-Identifier: Apache-2.0
"""Jobs, workers, and the settings of a training, which are read from the contract."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from blemish.v1.dataset_pb2 import Dataset
from blemish.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_SUCCEEDED,
    EfficientAd,
    Job,
    PatchCore,
    Train,
    Worker,
)
from blemish_client.client import Client
from blemish_console import texts

MAX_JOBS = 50
"""Number of jobs in the list."""
MAX_SECONDS = 1e8
"""Largest time limit, in seconds."""
_ENDED = frozenset({JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED})

_MESSAGE = re.compile(r"message (\w+) \{")
_FIELD = re.compile(r"\s+(?:optional |repeated )?[\w.]+ (\w+) = \d+")
_CODE = re.compile(r"[A-Z_]+(?: \([a-z ]+\))?: ")
_NAME_IN_SENTENCE = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
_REFERENCE = re.compile(r"[^.]*(?:Request|anomalib)\.\s*")


@dataclass(frozen=True)
class Setting:
    """A setting of a detector."""

    path: str
    """Field of ``Train``, such as patchcore.input_size."""
    label: str
    kind: str
    """One of text, whole, number, choice and minutes."""
    description: str
    """Sentences with its range and its default."""


@dataclass(frozen=True)
class TrainableDetector:
    """A detector that can be trained."""

    title: str
    settings: type[PatchCore | EfficientAd]
    """Message with its settings."""


DETECTORS = {
    "patchcore": TrainableDetector("PatchCore", PatchCore),
    "efficientad": TrainableDetector("EfficientAD", EfficientAd),
}
"""Detectors by their fields of ``Train``, which are also their names on cards."""


class SettingError(Exception):
    """A text that is not a value of its setting."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


@dataclass(frozen=True)
class Overview:
    """The latest jobs, and the workers that may run them."""

    jobs: list[Job]
    """The newest first."""
    workers: list[Worker]


def read_overview(client: Client) -> Overview:
    """Return the latest jobs and the workers."""
    return Overview(list(islice(client.jobs(), MAX_JOBS)), client.workers())


def read_job(client: Client, name: str) -> Job:
    """Return a job."""
    return client.job(name)


def read_datasets(client: Client) -> list[Dataset]:
    """Return all datasets by name."""
    return list(client.datasets())


def read_model_ids(client: Client) -> list[str]:
    """Return the ids of all models."""
    return [model.name.removeprefix("models/") for model in client.models()]


def start_indexing(client: Client, model: str, dataset: str) -> Job:
    """Add the images of a dataset to the index of a model or version."""
    return client.embed(model, dataset)


def is_ended(job: Job) -> bool:
    """Return whether a job has ended, in whichever way."""
    return job.state in _ENDED


def worker_of(job: Job) -> str:
    """Return the worker of the latest attempt; empty before the first."""
    return next((event.worker for event in reversed(job.history) if event.worker), "")


def settings(detector: str) -> list[Setting]:
    """Return all settings of a detector, in the order of the contract."""
    message = DETECTORS[detector].settings.DESCRIPTOR
    return [
        Setting(
            f"{detector}.{field.name}",
            label(field.name),
            _kind(field),
            description(message.name, field.name),
        )
        for field in message.fields
    ]


def detector_title(detector: str) -> str:
    """Return the title of a detector by its field; unknown for one of a newer server."""
    return DETECTORS[detector].title if detector in DETECTORS else texts.UNKNOWN


def label(name: str) -> str:
    """Return the name of a field as words."""
    return name.replace("_", " ")


def description(message: str, field: str) -> str:
    """Return the sentences of the contract about a field, without status codes; empty if there are none."""
    paragraphs = _comments().get(f"{message}.{field}", "").split("\n")
    text = " ".join(each for each in paragraphs if each and not _CODE.match(each))
    text = _NAME_IN_SENTENCE.sub(lambda found: label(found[0]), text.replace("`", ""))
    return _REFERENCE.sub("", text).strip()


def parse_settings(detector: str, values: Mapping[str, str]) -> PatchCore | EfficientAd:
    """Return the settings of a detector.

    Args:
        detector: field of ``Train``.
        values: texts by the path of their setting; an empty one stands for the default.

    Raises:
        SettingError: if a text is not a value of its setting.
    """
    message = DETECTORS[detector].settings()
    for setting in settings(detector):
        if not (text := values.get(setting.path, "").strip()):
            continue
        name = setting.path.partition(".")[2]
        if setting.kind == "minutes":
            seconds = 60 * parse_number(setting.path, text, MAX_SECONDS / 60)
            getattr(message, name).CopyFrom(Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)))
        elif setting.kind == "whole":
            setattr(message, name, parse_whole(setting.path, text))
        elif setting.kind == "number":
            setattr(message, name, parse_number(setting.path, text))
        else:
            setattr(message, name, text == "yes" if setting.kind == "choice" else text)
    return message


def parse_whole(path: str, text: str, lowest: int = 1, highest: int = 2**31 - 1) -> int:
    """Return a whole number.

    Raises:
        SettingError: if it is not one, or not within the limits.
    """
    try:
        value = int(text)
    except ValueError:
        raise SettingError(path, texts.NOT_WHOLE.format(text=text[:40])) from None
    if not lowest <= value <= highest:
        raise SettingError(path, texts.NOT_WITHIN.format(text=text[:40], low=lowest, high=highest))
    return value


def parse_number(path: str, text: str, highest: float = 1e9) -> float:
    """Return a number above 0. The contract takes 0 for the default.

    Raises:
        SettingError: if it is not a number, not above 0, or too large.
    """
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        raise SettingError(path, texts.NOT_A_NUMBER.format(text=text[:40])) from None
    if not math.isfinite(value) or not 0 < value <= highest:
        raise SettingError(path, texts.NOT_POSITIVE.format(text=text[:40], high=f"{highest:g}"))
    return value


def path_of(field: str) -> str:
    """Return the setting that an error of the server names, such as patchcore.input_size."""
    return field.removeprefix("train.")


def _kind(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return "minutes"
    return {
        FieldDescriptor.CPPTYPE_INT32: "whole",
        FieldDescriptor.CPPTYPE_DOUBLE: "number",
        FieldDescriptor.CPPTYPE_BOOL: "choice",
    }.get(field.cpp_type, "text")


@cache
def _comments() -> dict[str, str]:
    """Return the comments of the contract by message and field, with a paragraph a line."""
    found: dict[str, str] = {}
    message, comment = "", ""
    for line in files("blemish.v1").joinpath("job.proto").read_text().splitlines():
        stripped = line.strip()
        if stripped.startswith("//"):
            text = stripped[2:].strip()
            comment += f"{' ' if comment and not comment.endswith(chr(10)) else ''}{text}" if text else "\n"
            continue
        if begun := _MESSAGE.match(line):
            message = begun[1]
        elif field := _FIELD.match(line):
            found[f"{message}.{field[1]}"] = comment
        comment = ""
    return found


def train_settings() -> dict[str, str]:
    """Return the sentences about the settings of every training by field name."""
    return {field.name: description(Train.DESCRIPTOR.name, field.name) for field in Train.DESCRIPTOR.fields}
