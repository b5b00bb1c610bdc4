# SPDX-License-Identifier: Apache-2.0
"""Run the server: ``blemish-server``; settings come from the environment."""

import asyncio
import sys


def main() -> None:
    from blemish_core.platform import gc_tuning, logs, threads
    from blemish_core.settings import read_settings
    from blemish_server.settings import ServerSettings

    settings = read_settings(ServerSettings, "blemish-server")
    logs.configure()
    threads.use_passive_waiting()
    threads.share_cores(settings.lanes)
    # The event loop's turn among the lanes: each of its many short steps may have to wait this long for it.
    sys.setswitchinterval(0.0005)
    # Only now: this loads torch, and a wrong setting should not have to wait for it.
    with gc_tuning.gc_frozen_after():
        from blemish_server.app import CannotServe, serve
    threads.disable_opencv_threads()

    try:
        asyncio.run(serve(settings))
    except CannotServe as error:
        print(f"blemish-server: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
