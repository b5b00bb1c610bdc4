# SPDX-License-Identifier: Apache-2.0

from typing import Any

import pytest
from tests.support.imports import imported_by

from blemish_core.jobs.queues import CANARY_TASK, HELP_TASK, QUEUES, RUN_TASK
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, TrainSpec
from blemish_workers.celery_app import make_celery_app
from blemish_workers.maintenance import Maintenance
from blemish_workers.settings import WorkerSettings
from blemish_workers.tasks import register_tasks
from blemish_workers.wiring import build_worker


def test_registered_canary_task_reaches_maintenance(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Maintenance] = []
    monkeypatch.setattr(Maintenance, "receive_canary", lambda maintenance: received.append(maintenance))
    settings = WorkerSettings()
    app = make_celery_app(settings)
    worker = build_worker(settings, app)
    register_tasks(app, worker)
    assert {RUN_TASK, HELP_TASK, CANARY_TASK} <= set(app.tasks)
    app.tasks[CANARY_TASK].apply(throw=True)
    assert received == [worker.maintenance]


def test_worker_consumes_all_queues_by_default() -> None:
    assert set(WorkerSettings().queues.split(",")) == set(QUEUES.values())


def test_each_kind_of_job_has_a_queue() -> None:
    kinds = {spec.model_fields["kind"].default for spec in (TrainSpec, EmbedSpec, EvaluateSpec)}
    assert set(QUEUES) == kinds


@pytest.mark.parametrize(
    ("settings", "slots"),
    [
        ({}, ["auto"]),
        ({"device": "cpu", "concurrency": 2}, ["cpu", "cpu"]),
        ({"devices": "cuda:0, cuda:1"}, ["cuda:0", "cuda:1"]),
        ({"devices": "cuda:0,cuda:1", "concurrency": 2}, ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]),
    ],
)
def test_each_device_has_as_many_slots_as_concurrent_jobs(
    settings: dict[str, Any], slots: list[str]
) -> None:
    assert WorkerSettings(**settings).slots == slots


def test_worker_imports_no_library_for_computing() -> None:
    """The worker never touches CUDA, and takes little memory compared with its children."""
    script = """
from blemish_workers.celery_app import make_celery_app
from blemish_workers.settings import WorkerSettings
from blemish_workers.tasks import register_tasks
from blemish_workers.wiring import build_worker
settings = WorkerSettings()
app = make_celery_app(settings)
register_tasks(app, build_worker(settings, app))
"""
    assert {"torch", "grpc", "anomalib", "openvino"} & imported_by(script) == set()


def test_modules_read_no_settings_when_imported() -> None:
    script = """
import os
os.environ["BLEMISH_CONCURRENCY"] = "not a number"
import blemish_workers.__main__, blemish_workers.celery_app, blemish_workers.tasks, blemish_workers.child
"""
    assert "celery" in imported_by(script)
