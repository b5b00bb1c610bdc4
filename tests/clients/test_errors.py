# SPDX-License-Identifier: Apache-2.0
import sys

import grpc
import pytest
from tests.support.fake_server import CallError, FakeServer

from blemish_client import Client, errors
from blemish_client.errors import ERROR_BY_CODE, BlemishError


def test_every_status_code_has_an_error_class() -> None:
    assert set(ERROR_BY_CODE) == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    assert set(ERROR_BY_CODE.values()) == {BlemishError, *BlemishError.__subclasses__()}


@pytest.mark.parametrize("code", ERROR_BY_CODE)
def test_status_raises_its_error_class(client: Client, fake: FakeServer, code: grpc.StatusCode) -> None:
    fake.errors["Score"] = [CallError(code, "because", "WHY")]
    with pytest.raises(BlemishError) as caught:
        client.score(b"", "m")
    assert type(caught.value) is ERROR_BY_CODE[code]
    assert (caught.value.code, caught.value.message, caught.value.reason) == (code, "because", "WHY")
    assert str(caught.value) == "because"
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_error_has_field_and_retry_delay(client: Client, fake: FakeServer) -> None:
    full = CallError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "OVERLOADED", field="image", retry_after_s=1.5
    )
    fake.errors["Score"] = [full]
    with pytest.raises(errors.ResourceExhausted) as caught:
        client.score(b"", "m")
    assert (caught.value.retry_after_s, caught.value.field) == (1.5, "image")


def test_minimal_installation_has_class_and_message(
    client: Client, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.rpc", None)
    fake.errors["Score"] = [CallError(grpc.StatusCode.NOT_FOUND, "no such model", "NOT_FOUND")]
    with pytest.raises(errors.NotFound, match="no such model") as caught:
        client.score(b"", "m")
    assert (caught.value.reason, caught.value.retry_after_s) == ("", None)


def test_status_without_details(client: Client, fake: FakeServer) -> None:
    fake.errors["Score"] = [CallError(grpc.StatusCode.INTERNAL, "internal error", detailed=False)]
    with pytest.raises(errors.InternalError, match="internal error"):
        client.score(b"", "m")


def test_call_dropped_by_a_stopping_server_is_unavailable(client: Client, fake: FakeServer) -> None:
    # gRPC ends a call in this way if the server has not accepted it.
    fake.errors["Score"] = [CallError(grpc.StatusCode.CANCELLED, "CANCELLED", detailed=False)]
    with pytest.raises(errors.Unavailable, match="the server stopped before it answered") as caught:
        client.score(b"", "m")
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_call_cancelled_by_the_client(client: Client, fake: FakeServer) -> None:
    cancelled = CallError(grpc.StatusCode.CANCELLED, "Channel closed!", detailed=False)
    fake.errors["Score"] = [cancelled]
    with pytest.raises(BlemishError) as caught:
        client.score(b"", "m")
    assert (type(caught.value), caught.value.code) == (BlemishError, grpc.StatusCode.CANCELLED)


def test_exceeded_deadline(client: Client, fake: FakeServer) -> None:
    fake.errors["Score"] = [CallError(grpc.StatusCode.DEADLINE_EXCEEDED, detailed=False)]
    with pytest.raises(errors.DeadlineExceeded, match="did not answer in time"):
        client.score(b"", "m")


def test_message_above_the_limit(client: Client) -> None:
    with pytest.raises(errors.ResourceExhausted, match="more than the 67108864 that BLEMISH_MAX") as caught:
        client.score(bytes(65 << 20), "m")
    assert caught.value.reason == "TOO_LARGE"


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (
            "SERVER: Received message larger than max (49006288 vs. 41943040)",
            "the request has 49006288 bytes, more than the 41943040 that BLEMISH_MAX_MESSAGE_BYTES of the "
            "server allows; send a smaller image",
        ),
        (
            "SERVER: Sent message larger than max (5 vs. 4)",
            "the response has 5 bytes, more than the 4 that BLEMISH_MAX_MESSAGE_BYTES of the server "
            "allows; request fewer outputs",
        ),
    ],
)
def test_message_above_the_limit_of_the_server_has_a_reason(
    client: Client, fake: FakeServer, details: str, expected: str
) -> None:
    fake.errors["Score"] = [CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, details, detailed=False)]
    with pytest.raises(errors.ResourceExhausted) as caught:
        client.score(b"", "m")
    assert (caught.value.message, caught.value.reason) == (expected, "TOO_LARGE")


def test_failed_handshake_names_the_cause(client: Client, fake: FakeServer) -> None:
    details = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Ssl handshake failed "
        "(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
        "CERTIFICATE_VERIFY_FAILED: self signed certificate"
    )
    fake.errors["Score"] = [CallError(grpc.StatusCode.UNAVAILABLE, details, detailed=False)]
    with pytest.raises(errors.Unavailable) as caught:
        client.score(b"", "m")
    cause = "certificate verify failed: self signed certificate"
    assert caught.value.message == f"TLS handshake failed with {client.target}: {cause}"
