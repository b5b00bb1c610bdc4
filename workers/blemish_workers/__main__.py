# SPDX-License-Identifier: Apache-2.0
"""The worker's entry point, ``blemish-worker``; settings come from the environment."""

import sys

from celery.signals import setup_logging, worker_ready, worker_shutdown, worker_shutting_down


def main() -> None:
    """Run a worker until it is stopped."""
    from blemish_core.platform.system import require_linux

    require_linux("blemish-worker")
    from blemish_core.platform import logs
    from blemish_core.platform.errors import FailedPrecondition, Unavailable
    from blemish_core.platform.lossy_output import replace_standard_streams
    from blemish_core.settings import read_settings
    from blemish_workers.celery_app import make_celery_app
    from blemish_workers.maintenance import canary_queue
    from blemish_workers.settings import WorkerSettings
    from blemish_workers.tasks import register_tasks
    from blemish_workers.wiring import build_worker

    replace_standard_streams()  # before Celery prints its banner
    settings = read_settings(WorkerSettings, "blemish-worker")
    app = make_celery_app(settings)
    worker = build_worker(settings, app)
    register_tasks(app, worker)
    try:
        # Celery itself fails on a cluster without a message that names it.
        worker.redis.ping()
    except FailedPrecondition as error:
        print(f"blemish-worker: {error}", file=sys.stderr)
        sys.exit(2)
    except Unavailable:
        pass  # Celery waits for Redis

    @setup_logging.connect(weak=False)
    def _configure_logging(**_: object) -> None:
        logs.configure()

    @worker_ready.connect(weak=False)
    def _start(**_: object) -> None:
        worker.maintenance.start()
        worker.slots.start_children()
        worker.report_ready(settings.ready_file)

    @worker_shutting_down.connect(weak=False)
    def _requeue_jobs(**_: object) -> None:
        worker.runner.stop()

    @worker_shutdown.connect(weak=False)
    def _stop(**_: object) -> None:
        worker.maintenance.stop()
        worker.slots.close()

    app.worker_main(
        [
            "worker",
            f"--queues={settings.queues},{canary_queue(worker.name)}",
            f"--hostname={worker.name.replace(':', '.')}@blemish",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=WARNING",
        ]
    )


if __name__ == "__main__":
    main()
