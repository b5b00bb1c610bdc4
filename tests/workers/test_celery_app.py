# SPDX-License-Identifier: Apache-2.0

import subprocess
import sys
from typing import Any

import pytest

from blemish_core.jobs.queues import CANARY, HELP, QUEUES, RUN
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, TrainSpec
from blemish_workers.celery_app import app
from blemish_workers.settings import WorkerSettings
from blemish_workers.tasks import canary, help_, run


def test_the_tasks_are_those_that_are_sent() -> None:
    assert (run.name, help_.name, canary.name) == (RUN, HELP, CANARY)
    assert {RUN, HELP, CANARY} <= set(app.tasks)


def test_a_worker_listens_to_every_queue_unless_told_otherwise() -> None:
    assert set(WorkerSettings().queues.split(",")) == set(QUEUES.values())


def test_every_kind_of_job_has_a_queue() -> None:
    kinds = {spec.model_fields["kind"].default for spec in (TrainSpec, EmbedSpec, EvaluateSpec)}
    assert set(QUEUES) == kinds


def test_a_worker_fetches_no_more_than_it_can_work_on() -> None:
    assert app.conf.task_acks_late
    assert app.conf.worker_prefetch_multiplier == 1
    assert not app.conf.worker_cancel_long_running_tasks_on_connection_loss
    assert app.conf.task_ignore_result


@pytest.mark.parametrize(
    ("told", "slots"),
    [
        ({}, ["auto"]),
        ({"device": "cpu", "concurrency": 2}, ["cpu", "cpu"]),
        ({"devices": "cuda:0, cuda:1"}, ["cuda:0", "cuda:1"]),
        ({"devices": "cuda:0,cuda:1", "concurrency": 2}, ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]),
    ],
)
def test_each_device_has_its_places(told: dict[str, Any], slots: list[str]) -> None:
    assert WorkerSettings(**told).slots == slots


def test_the_parent_process_loads_no_torch() -> None:
    """It never touches CUDA, and takes next to no memory beside its children."""
    check = (
        "import sys, blemish_workers.tasks, blemish_workers.wiring as h; h.house(); "
        "sys.exit(', '.join({'torch', 'grpc', 'anomalib', 'openvino'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
