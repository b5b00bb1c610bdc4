# SPDX-License-Identifier: Apache-2.0
"""The address of Qdrant's gRPC services."""

from typing import Any

import pytest
from qdrant_client import QdrantClient

from blemish_core.search.qdrant_channel import grpc_address


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:6333",
        "http://[::1]:6333",
        "localhost:6333",
        "qdrant",
        "https://index.example.com",
        "https://10.0.0.7:443/qdrant",
    ],
)
def test_searches_use_the_address_of_qdrants_client(url: str) -> None:
    remote: Any = QdrantClient(url=url, grpc_port=6334, prefer_grpc=True, check_compatibility=False)._client
    assert grpc_address(url, 6334) == (f"{remote._host}:6334", remote._https)
