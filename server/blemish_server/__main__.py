# SPDX-License-Identifier: Apache-2.0
"""Run the server: ``blemish-server``; settings come from the environment."""

import asyncio
import sys

from pydantic import ValidationError


def main() -> None:
    from blemish_core import logs
    from blemish_server.app import PortTaken, serve
    from blemish_server.settings import ServerSettings

    try:
        settings = ServerSettings()
    except ValidationError as error:
        sys.exit(f"blemish-server: {error}")
    logs.configure()
    try:
        asyncio.run(serve(settings))
    except PortTaken as error:
        print(f"blemish-server: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
