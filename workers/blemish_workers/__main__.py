# SPDX-License-Identifier: Apache-2.0
"""Run a worker: ``blemish-worker``; settings come from the environment."""

from celery.signals import setup_logging, worker_ready


def main() -> None:
    from blemish_core import logs, threads
    from blemish_workers.app import app, settings

    @setup_logging.connect(weak=False)
    def _log(**_: object) -> None:
        logs.configure()

    @worker_ready.connect(weak=False)
    def _tell(**_: object) -> None:
        if settings.ready_file:
            settings.ready_file.write_text("ready\n")

    threads.wait_asleep()
    app.worker_main(
        [
            "worker",
            f"--queues={settings.queues}",
            f"--concurrency={settings.concurrency}",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=WARNING",
        ]
    )


if __name__ == "__main__":
    main()
