# SPDX-License-Identifier: Apache-2.0
"""The child process of a worker, ``python -m blemish_workers.child FD``, started by ``ChildProcess``.

It reads steps from standard input and writes messages to the file descriptor ``FD``.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Run steps until the worker closes standard input."""
    from blemish_core.platform import gc_tuning, logs, threads
    from blemish_core.settings import read_settings
    from blemish_workers.settings import WorkerSettings

    # Ctrl-C in a terminal reaches the whole process group; only the worker decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # If memory runs out, the kernel should kill this process: the worker can report it and retry.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    logs.configure()
    threads.use_passive_waiting()
    settings = read_settings(WorkerSettings, "blemish-worker")

    with gc_tuning.gc_frozen_after():
        import blemish_core.search.search_index  # noqa: F401  # imported here so that it is frozen too
        from blemish_core.jobs.context import JobContext
        from blemish_core.jobs.handlers.child import Child
        from blemish_core.settings import resolve_device
        from blemish_workers.runner.context import make_job_context
    threads.disable_opencv_threads()
    threads.disable_blas_threads()

    def measure(context: JobContext) -> None:
        # Imported on demand: it loads all detectors, and the speed is mostly known.
        from blemish_core.jobs.handlers.measure_rates import store_rates

        store_rates(context)

    context = make_job_context(settings, resolve_device(settings.device))
    replies = os.fdopen(int(sys.argv[1]), "wb")
    Child(
        context,
        sys.stdin.buffer,
        replies,
        on_disconnect=lambda: os._exit(0),
        measure=measure if settings.measure_rates else None,
    ).run()


if __name__ == "__main__":
    main()
