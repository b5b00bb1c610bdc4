# SPDX-License-Identifier: Apache-2.0
"""Models, their cards, and the changes of a version's role."""

from collections.abc import Iterable
from dataclasses import dataclass

from blemish.v1 import model_pb2
from blemish.v1.model_pb2 import Calibration, Interval, Metrics, Model, ModelVersion
from blemish_client.client import Client

FIGURES = ("image_auroc", "detection_rate", "false_reject_rate", "pixel_auroc", "aupro")
"""Fields of ``Metrics`` that the card shows."""


@dataclass(frozen=True)
class Figure:
    """A metric with its 95 % confidence interval."""

    name: str
    """Field name of ``Metrics``."""
    value: float
    interval: Interval | None


def read_models(client: Client) -> list[Model]:
    """Return all models by name."""
    return list(client.models())


def read_version(client: Client, version: str) -> ModelVersion:
    """Return the card of a version."""
    return client.model(version)


def import_version(client: Client, chunks: Iterable[bytes], size_bytes: int, model_id: str) -> ModelVersion:
    """Import an exported version from its bytes as they arrive."""
    return client.import_stream(chunks, size_bytes, model_id=model_id)


def figures(metrics: Metrics) -> list[Figure]:
    """Return the metrics that are set."""
    return [
        Figure(name, getattr(metrics, name), metrics.intervals.get(name))
        for name in FIGURES
        if metrics.HasField(name)  # type: ignore[arg-type]  # the names are those of fields
    ]


def is_set_by_person(calibration: Calibration) -> bool:
    """Return whether a person has set the threshold of a calibration."""
    return calibration.rule in (
        model_pb2.THRESHOLD_RULE_FIXED,
        model_pb2.THRESHOLD_RULE_FALSE_REJECT_RATE,
    )


def is_older(version: str, production: str) -> bool:
    """Return whether a version was published before the one in production."""
    return bool(production) and _number(version) < _number(production)


def _number(version: str) -> int:
    return int(version.rpartition("/")[2])
