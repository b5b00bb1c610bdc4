# SPDX-License-Identifier: Apache-2.0

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc import StatusCode

from blemish_core.platform import errors
from blemish_core.platform.errors import BlemishError
from blemish_server.transport.status import STATUS_OF_ERROR, frame_refusal, message_of, status_of


def descendants(of: type[BlemishError]) -> set[type[BlemishError]]:
    return {below for child in of.__subclasses__() for below in {child} | descendants(child)}


def test_every_domain_error_has_a_status_and_its_own_reason() -> None:
    assert descendants(BlemishError) == set(STATUS_OF_ERROR)
    reasons = [error.reason for error in STATUS_OF_ERROR]
    assert len(set(reasons)) == len(reasons)
    assert BlemishError.reason not in reasons


def test_invalid_field_is_named_in_the_details() -> None:
    status = status_of(errors.InvalidRequest("limit is 0", field="limit"))
    info, bad = ErrorInfo(), BadRequest()
    assert status.code == StatusCode.INVALID_ARGUMENT.value[0]
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("INVALID_REQUEST", "blemish")
    assert status.details[1].Unpack(bad)
    assert bad.field_violations[0].field == "limit"


@pytest.mark.parametrize(
    "error",
    [
        errors.Overloaded("full", retry_after_s=1.5),
        errors.Unavailable("down", dependency="redis", retry_after_s=1.5),
    ],
)
def test_transient_error_has_a_retry_delay(error: BlemishError) -> None:
    retry = RetryInfo()
    assert status_of(error).details[-1].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.5


@pytest.mark.parametrize("letter", ["x", "ü", "划", "🙂", "\n"])
def test_long_message_fits_into_the_headers_of_a_response(letter: str) -> None:
    error = errors.InvalidRequest(f"{letter * 10**6!r} is not a valid id; use 1 to 63 letters", field="id")
    status = status_of(error)
    # gRPC percent-encodes the message, base64-encodes the details, and allows 8 KiB in all.
    encoded = 3 * len(status.message.encode()) + 4 / 3 * len(status.SerializeToString())
    assert encoded < 7 << 10
    assert status.message == message_of(error) == frame_refusal(error).message
    assert status.message.endswith("is not a valid id; use 1 to 63 letters")


def test_short_message_is_unchanged() -> None:
    assert message_of(errors.NotFound("ü" * 400)) == "ü" * 400
