# SPDX-License-Identifier: Apache-2.0
"""The client of blemish: ``Client`` speaks to a server, ``errors`` holds what it may raise."""

from blemish_client.camera import Lost, Seen
from blemish_client.client import Client
from blemish_client.errors import BlemishError
from blemish_client.patience import Patience
from blemish_client.search import Found

__all__ = ["BlemishError", "Client", "Found", "Lost", "Patience", "Seen"]
