# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest
from tests.support.clock import FakeClock
from tests.support.console import FakeServer, fake_server

from blemish.v1.access_pb2 import ROLE_CAMERA, ROLE_OPERATOR, ROLE_SERVICE
from blemish_client.errors import Unauthenticated
from blemish_console import session as session_module
from blemish_console.session import SessionStore

HOUR_S = 3600.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server() -> FakeServer:
    return fake_server(ann=ROLE_SERVICE, bob=ROLE_OPERATOR)


@pytest.fixture
def store(server: FakeServer, clock: FakeClock) -> Iterator[SessionStore]:
    store = SessionStore(server, HOUR_S, clock.monotonic)
    yield store
    store.close()


async def test_session_is_found_by_its_id_with_caller_and_role(store: SessionStore) -> None:
    session = store.find(await store.sign_in("token-of-ann"))
    assert session is not None
    assert session.caller == "ann"
    assert session.may(ROLE_CAMERA)
    assert session.may(ROLE_SERVICE)
    assert not session.may(ROLE_OPERATOR)


async def test_id_of_a_session_neither_is_nor_contains_the_token(store: SessionStore) -> None:
    id = await store.sign_in("token-of-ann")
    assert "ann" not in id
    assert len(id) >= 32
    assert id != await store.sign_in("token-of-ann")


async def test_unknown_token_starts_no_session(store: SessionStore) -> None:
    with pytest.raises(Unauthenticated):
        await store.sign_in("guessed")


@pytest.mark.parametrize("id", ["", "guessed"])
async def test_unknown_id_finds_no_session(store: SessionStore, id: str) -> None:
    await store.sign_in("token-of-ann")
    assert store.find(id) is None


async def test_session_expires(store: SessionStore, clock: FakeClock) -> None:
    id = await store.sign_in("token-of-ann")
    clock.now_s += HOUR_S - 1
    session = store.find(id)
    assert session is not None
    clock.now_s += 1
    assert store.find(id) is None
    with pytest.raises(Unauthenticated, match="sign in"):
        await session.call(lambda client: client.server_info())


async def test_sign_out_ends_the_session_in_pages_that_are_open(store: SessionStore) -> None:
    id = await store.sign_in("token-of-ann")
    session = store.find(id)
    assert session is not None
    store.sign_out(id)
    assert store.find(id) is None
    assert not session.is_valid


async def test_revoked_token_ends_the_session(store: SessionStore, server: FakeServer) -> None:
    id = await store.sign_in("token-of-ann")
    session = store.find(id)
    assert session is not None
    del server.callers.by_token["token-of-ann"]
    with pytest.raises(Unauthenticated):
        await session.call(lambda client: client.server_info())
    assert store.find(id) is None


async def test_pages_of_a_session_share_a_fresh_answer(
    store: SessionStore, server: FakeServer, clock: FakeClock
) -> None:
    session = store.find(await store.sign_in("token-of-ann"))
    assert session is not None
    before = server.callers.questions
    await session.refresh()
    await session.refresh()
    assert server.callers.questions == before
    clock.now_s += 3
    await session.refresh()
    assert server.callers.questions == before + 1


async def test_oldest_session_ends_above_the_limit(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_SESSIONS", 2)
    ids = [await store.sign_in("token-of-ann") for _ in range(3)]
    assert [store.find(id) is not None for id in ids] == [False, True, True]


async def test_server_with_an_access_file_has_no_shared_session(store: SessionStore) -> None:
    assert await store.open() is None
    assert store.shared is None


async def test_open_server_has_one_session_for_all_browsers(clock: FakeClock) -> None:
    store = SessionStore(fake_server(), HOUR_S, clock.monotonic)
    session = await store.open()
    assert session is not None
    assert session is await store.open()
    assert session is store.shared
    assert session.may(ROLE_OPERATOR)
    store.close()


async def test_shared_session_ends_when_the_server_gets_an_access_file(clock: FakeClock) -> None:
    server = fake_server()
    store = SessionStore(server, HOUR_S, clock.monotonic)
    session = await store.open()
    assert session is not None
    server.callers.by_token["token-of-ann"] = ("ann", ROLE_SERVICE)
    clock.now_s += 3
    with pytest.raises(Unauthenticated):
        await session.refresh()
    assert store.shared is None
    assert await store.open() is None
    store.close()
