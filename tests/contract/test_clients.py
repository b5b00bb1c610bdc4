# SPDX-License-Identifier: Apache-2.0
"""The asyncio client has the calls of the blocking one."""

import inspect
from collections.abc import AsyncIterator, Generator, Iterator

import pytest

from blemish_client import AsyncClient, Client

CALLS = sorted(name for name, _ in inspect.getmembers(Client, inspect.isfunction) if name[0] != "_")
OTHER_RESULTS = {
    "search": "SearchResults reads ahead in the calling thread; the asyncio client yields messages",
}


def test_clients_have_the_same_calls() -> None:
    found = {name for name, _ in inspect.getmembers(AsyncClient, inspect.isfunction) if name[0] != "_"}
    assert found == set(CALLS)
    assert set(OTHER_RESULTS) <= found


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_both_clients_take_the_same_parameters(name: str) -> None:
    blocking, asynchronous = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
    assert list(blocking.parameters) == list(asynchronous.parameters)
    for parameter in blocking.parameters.values():
        other = asynchronous.parameters[parameter.name]
        assert (parameter.kind, parameter.default) == (other.kind, other.default)
        if name != "stream":  # it takes asynchronous iterables too
            assert parameter.annotation == other.annotation


@pytest.mark.parametrize("name", sorted(set(CALLS) - set(OTHER_RESULTS)))
def test_calls_of_both_clients_have_the_same_results(name: str) -> None:
    blocking, asynchronous = getattr(Client, name), getattr(AsyncClient, name)
    returned, awaited = (inspect.signature(call).return_annotation for call in (blocking, asynchronous))
    kind = getattr(returned, "__origin__", None)
    if kind in (Iterator, Generator):
        assert issubclass(awaited.__origin__, AsyncIterator)
        assert awaited.__args__[0] == returned.__args__[0]
    else:
        assert inspect.iscoroutinefunction(asynchronous)
        assert awaited == returned
