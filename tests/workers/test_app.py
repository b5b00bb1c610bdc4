# SPDX-License-Identifier: Apache-2.0

import subprocess
import sys

from blemish_core.jobs.queues import QUEUES, TASK
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, TrainSpec
from blemish_workers.app import app
from blemish_workers.settings import WorkerSettings
from blemish_workers.tasks import run


def test_the_task_is_the_one_that_the_server_sends() -> None:
    assert run.name == TASK
    assert TASK in app.tasks
    assert run.max_retries is None


def test_a_worker_listens_to_every_queue_unless_told_otherwise() -> None:
    assert set(WorkerSettings().queues.split(",")) == set(QUEUES.values())


def test_every_kind_of_job_has_a_queue() -> None:
    kinds = {spec.model_fields["kind"].default for spec in (TrainSpec, EmbedSpec, EvaluateSpec)}
    assert set(QUEUES) == kinds


def test_what_a_dead_worker_held_is_delivered_again() -> None:
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert not app.conf.worker_cancel_long_running_tasks_on_connection_loss
    assert app.conf.task_ignore_result


def test_the_parent_process_loads_no_torch() -> None:
    """It forks: a CUDA context, or grpc's threads, would not survive that."""
    check = "import sys, blemish_workers.tasks; sys.exit(bool({'torch', 'grpc'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
