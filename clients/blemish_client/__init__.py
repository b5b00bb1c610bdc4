# SPDX-License-Identifier: Apache-2.0
"""Python client of blemish.

The public API is the names exported here and the exceptions in ``blemish_client.errors``.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from blemish_client.types.stored_image import StoredImage

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
    "StoredImage",
    "StreamPolicy",
    "Verdict",
    "anomaly_map",
    "defect_mask",
    "raw_image",
]

_MODULES = {
    "AsyncClient": "aio",
    "BlemishError": "errors",
    "Client": "client",
    "Consensus": "types.enums",
    "Credentials": "transport.credentials",
    "Frame": "types.frame",
    "FrameResult": "streaming.ledger",
    "JobPriority": "types.enums",
    "JobState": "types.enums",
    "Keepalive": "transport.channel",
    "Label": "types.enums",
    "LostFrames": "streaming.ledger",
    "Priority": "types.enums",
    "RetryPolicy": "transport.retry",
    "SearchResults": "search",
    "Store": "types.enums",
    "StoredImage": "types.stored_image",
    "StreamPolicy": "types.enums",
    "Verdict": "types.enums",
    "anomaly_map": "types.arrays",
    "defect_mask": "types.arrays",
    "raw_image": "images",
}
"""Modules of the exported names. Each is imported at its first use, because the command line sets up gRPC
before its import."""

_SUBMODULES = frozenset({"aio", "client", "errors", "images", "search", "streaming", "transport", "types"})

_OLD_NAMES = {
    "Found": "SearchResults",
    "Lost": "LostFrames",
    "Patience": "RetryPolicy",
    "Seen": "FrameResult",
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"blemish_client.{name}")
    if name in _MODULES:
        return getattr(import_module(f"blemish_client.{_MODULES[name]}"), name)
    if (renamed := _OLD_NAMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"blemish_client.{name} is deprecated; use {renamed}", DeprecationWarning, stacklevel=2)
    return __getattr__(renamed)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
