# SPDX-License-Identifier: Apache-2.0
"""Waiting for what may not come."""

import asyncio


async def either(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than ``seconds``."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
