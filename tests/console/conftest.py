# SPDX-License-Identifier: Apache-2.0
"""Sessions on a server in memory."""

from collections.abc import AsyncIterator

import pytest
from tests.support.console import fake_server

from blemish.v1.access_pb2 import ROLE_SERVICE
from blemish_console.session import BrowserSession, SessionStore


@pytest.fixture
async def shared_session() -> AsyncIterator[BrowserSession]:
    """Return the session of all browsers of an open server."""
    store = SessionStore(fake_server(), 3600)
    session = await store.open()
    assert session is not None
    yield session
    store.close()


@pytest.fixture
async def ann() -> AsyncIterator[BrowserSession]:
    """Return the session of a caller with the role service."""
    store = SessionStore(fake_server(ann=ROLE_SERVICE), 3600)
    session = store.find(await store.sign_in("token-of-ann"))
    assert session is not None
    yield session
    store.close()
