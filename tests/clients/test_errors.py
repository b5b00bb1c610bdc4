# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import grpc
import pytest

from blemish_client import Client, errors
from blemish_client.errors import ERROR_BY_CODE, BlemishError

if TYPE_CHECKING:
    from tests.clients.conftest import Fake, Make


def test_every_code_has_its_class() -> None:
    assert set(ERROR_BY_CODE) == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    assert set(ERROR_BY_CODE.values()) == {BlemishError, *BlemishError.__subclasses__()}


@pytest.mark.parametrize("code", ERROR_BY_CODE)
def test_a_refusal_becomes_its_class(client: Client, fake: Fake, make: Make, code: grpc.StatusCode) -> None:
    fake.refusals["Score"] = [make.refusal(code, "because", "WHY")]
    with pytest.raises(BlemishError) as caught:
        client.score(b"", "m")
    assert type(caught.value) is ERROR_BY_CODE[code]
    assert (caught.value.code, caught.value.message, caught.value.reason) == (code, "because", "WHY")
    assert str(caught.value) == "because"
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_details(client: Client, fake: Fake, make: Make) -> None:
    full = make.refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "OVERLOADED", field="image", retry_after_s=1.5
    )
    fake.refusals["Score"] = [full]
    with pytest.raises(errors.ResourceExhausted) as caught:
        client.score(b"", "m")
    assert (caught.value.retry_after_s, caught.value.field) == (1.5, "image")


def test_the_thin_client_knows_class_and_message_alone(
    client: Client, fake: Fake, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.rpc", None)
    fake.refusals["Score"] = [make.refusal(grpc.StatusCode.NOT_FOUND, "no such model", "NOT_FOUND")]
    with pytest.raises(errors.NotFound, match="no such model") as caught:
        client.score(b"", "m")
    assert (caught.value.reason, caught.value.retry_after_s) == ("", None)


def test_a_status_without_details(client: Client, fake: Fake, make: Make) -> None:
    fake.refusals["Score"] = [make.refusal(grpc.StatusCode.INTERNAL, "internal error", detailed=False)]
    with pytest.raises(errors.InternalError, match="internal error"):
        client.score(b"", "m")


def test_a_call_that_the_server_dropped_as_it_stopped(client: Client, fake: Fake, make: Make) -> None:
    # gRPC's own end of a call that nobody has taken.
    fake.refusals["Score"] = [make.refusal(grpc.StatusCode.CANCELLED, "CANCELLED", detailed=False)]
    with pytest.raises(errors.Unavailable, match="the server stopped before it answered") as caught:
        client.score(b"", "m")
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_a_call_that_this_side_cancelled(client: Client, fake: Fake, make: Make) -> None:
    of_grpc = make.refusal(grpc.StatusCode.CANCELLED, "Channel closed!", detailed=False)
    fake.refusals["Score"] = [of_grpc]
    with pytest.raises(BlemishError) as caught:
        client.score(b"", "m")
    assert (type(caught.value), caught.value.code) == (BlemishError, grpc.StatusCode.CANCELLED)


def test_the_deadline(client: Client, fake: Fake, make: Make) -> None:
    fake.refusals["Score"] = [make.refusal(grpc.StatusCode.DEADLINE_EXCEEDED, detailed=False)]
    with pytest.raises(errors.DeadlineExceeded, match="did not answer in time"):
        client.score(b"", "m")


def test_a_message_beyond_the_limit(client: Client) -> None:
    with pytest.raises(errors.ResourceExhausted):
        client.score(bytes(65 << 20), "m")
