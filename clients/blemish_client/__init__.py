# SPDX-License-Identifier: Apache-2.0
"""The client of blemish: ``Client`` and ``AsyncClient`` speak to a server and raise ``errors``."""

from blemish_client.aio import AsyncClient
from blemish_client.client import Client
from blemish_client.errors import BlemishError
from blemish_client.search import Found
from blemish_client.streaming.camera import Lost, Seen
from blemish_client.transport.credentials import Credentials
from blemish_client.transport.retry import Patience

__all__ = ["AsyncClient", "BlemishError", "Client", "Credentials", "Found", "Lost", "Patience", "Seen"]
