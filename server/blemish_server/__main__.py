# SPDX-License-Identifier: Apache-2.0
"""The ``blemish-server`` command. Its settings come from the environment."""

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from blemish_server.app import App
    from blemish_server.settings import ServerSettings

# Threads for blocking work: decoding, files, Redis, Qdrant. Further calls queue in the event loop.
_BLOCKING_THREADS = 32
# Longest time that the event loop waits for the GIL in each of its many short steps.
_SWITCH_INTERVAL_S = 0.0005


def main() -> None:
    """Read the settings, load the server, and run it until SIGTERM or SIGINT."""
    from blemish_core.platform.system import require_linux

    require_linux("blemish-server")
    from blemish_core.platform import gc_tuning, logs, threads
    from blemish_core.settings import read_settings
    from blemish_server.settings import ServerSettings

    settings = read_settings(ServerSettings, "blemish-server")
    logs.configure()
    threads.use_passive_waiting()
    threads.share_cores(settings.lanes)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # Import torch only after the settings are valid, because that takes seconds.
    gc_tuning.collect_less_often()
    with gc_tuning.gc_frozen_after():
        from blemish_server.app import CannotServe
        from blemish_server.wiring import build_app
    threads.disable_opencv_threads()
    threads.disable_blas_threads()

    try:
        asyncio.run(_serve(settings, build_app))
    except CannotServe as error:
        print(f"blemish-server: {error}", file=sys.stderr)
        sys.exit(2)


async def _serve(settings: "ServerSettings", build_app: "Callable[[ServerSettings], App]") -> None:
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(_BLOCKING_THREADS, thread_name_prefix="blocking")
    loop.set_default_executor(executor)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await build_app(settings).run(stop, settings.grace_s, settings.ready_file)


if __name__ == "__main__":
    main()
