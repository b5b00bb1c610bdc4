# SPDX-License-Identifier: Apache-2.0
"""Python client of blemish.

The public API is the names exported here and the exceptions in ``blemish_client.errors``.
"""

import warnings
from typing import TYPE_CHECKING, Any

from blemish_client.aio import AsyncClient
from blemish_client.client import Client
from blemish_client.errors import BlemishError
from blemish_client.images import raw_image
from blemish_client.search import SearchResults
from blemish_client.streaming.ledger import FrameResult, LostFrames
from blemish_client.transport.channel import Keepalive
from blemish_client.transport.credentials import Credentials
from blemish_client.transport.retry import RetryPolicy
from blemish_client.types.arrays import anomaly_map, defect_mask
from blemish_client.types.enums import (
    Consensus,
    JobPriority,
    JobState,
    Label,
    Priority,
    Store,
    StreamPolicy,
    Verdict,
)
from blemish_client.types.frame import Frame

if TYPE_CHECKING:
    Found = SearchResults
    Lost = LostFrames
    Patience = RetryPolicy
    Seen = FrameResult

__all__ = [
    "AsyncClient",
    "BlemishError",
    "Client",
    "Consensus",
    "Credentials",
    "Frame",
    "FrameResult",
    "JobPriority",
    "JobState",
    "Keepalive",
    "Label",
    "LostFrames",
    "Priority",
    "RetryPolicy",
    "SearchResults",
    "Store",
    "StreamPolicy",
    "Verdict",
    "anomaly_map",
    "defect_mask",
    "raw_image",
]

_OLD_NAMES = {
    "Found": SearchResults,
    "Lost": LostFrames,
    "Patience": RetryPolicy,
    "Seen": FrameResult,
}


def __getattr__(name: str) -> Any:
    if (renamed := _OLD_NAMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"blemish_client.{name} is deprecated; use {renamed.__name__}", DeprecationWarning, stacklevel=2
    )
    return renamed
