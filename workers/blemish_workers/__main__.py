# SPDX-License-Identifier: Apache-2.0
"""Run a worker: ``blemish-worker``; settings come from the environment."""

from celery.signals import setup_logging, worker_ready, worker_shutdown, worker_shutting_down


def main() -> None:
    from blemish_core.platform import logs
    from blemish_workers.celery_app import app, settings
    from blemish_workers.maintenance import canary_queue
    from blemish_workers.wiring import NAME, house

    @setup_logging.connect(weak=False)
    def _log(**_: object) -> None:
        logs.configure()

    @worker_ready.connect(weak=False)
    def _open(**_: object) -> None:
        house().caretaker.start()
        house().slots.warm()
        if settings.ready_file:
            settings.ready_file.write_text("ready\n")

    @worker_shutting_down.connect(weak=False)
    def _hand_back(**_: object) -> None:
        house().foreman.stop()

    @worker_shutdown.connect(weak=False)
    def _close(**_: object) -> None:
        house().caretaker.stop()
        house().slots.close()

    app.worker_main(
        [
            "worker",
            f"--queues={settings.queues},{canary_queue(NAME)}",
            f"--hostname={NAME.replace(':', '.')}@blemish",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=WARNING",
        ]
    )


if __name__ == "__main__":
    main()
