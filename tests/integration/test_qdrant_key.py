# SPDX-License-Identifier: Apache-2.0
"""A Qdrant that asks for a key."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from qdrant_client import grpc as qg

from blemish_core.platform.errors import Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.finder import Finder
from blemish_core.search.query import Query
from blemish_core.search.search_index import SearchIndex

KEY = "a key"
VERSION = ModelRef("tile", 1)


class Locked(qg.PointsServicer):
    """Finds nothing for those who have the key."""

    def Query(self, request: qg.QueryPoints, context: grpc.ServicerContext) -> qg.QueryResponse:  # noqa: N802
        self._ask(context)
        return qg.QueryResponse()

    def Count(self, request: qg.CountPoints, context: grpc.ServicerContext) -> qg.CountResponse:  # noqa: N802
        self._ask(context)
        return qg.CountResponse(result=qg.CountResult(count=7))

    def _ask(self, context: grpc.ServicerContext) -> None:
        if dict(context.invocation_metadata()).get("api-key") != KEY:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Must provide an API key")


@pytest.fixture
def port() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    qg.add_PointsServicer_to_server(Locked(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
async def test_right_key_gives_access(port: int) -> None:
    where = (f"http://127.0.0.1:{port}", port, KEY)
    index = SearchIndex.connect(*where)
    finder = Finder.connect(*where)
    assert index.count(VERSION) == 7
    assert await finder.search(VERSION, Query(np.ones(4, np.float32)), 5) == []
    await finder.close()


async def test_missing_key_is_reported_with_the_remedy(port: int) -> None:
    where = (f"http://127.0.0.1:{port}", port)
    index = SearchIndex.connect(*where)
    finder = Finder.connect(*where)
    refused = r"Qdrant rejected the request: Must provide an API key; check QDRANT_API_KEY"
    with pytest.raises(Unavailable, match=refused):
        index.count(VERSION)
    with pytest.raises(Unavailable, match=refused):
        await finder.search(VERSION, Query(np.ones(4, np.float32)), 5)
    await finder.close()
