# SPDX-License-Identifier: Apache-2.0
"""Messages of the server name options of the command line, not fields of the contract."""

import grpc
import pytest
from tests.support.cli import Run
from tests.support.fake_server import CallError, FakeServer

from blemish_client.cli.wording import in_options


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "set a larger max_memory_bytes, or reduce input_size",
            "set a larger --max-memory-gib, or reduce --input-size",
        ),
        ("regions.smallest_area is -1; use 0 or more", "--smallest-area is -1; use 0 or more"),
        ("label_class has 200 characters; use at most 128", "--class has 200 characters; use at most 128"),
        ("limits.max_run_time is 0 s", "--max-run-minutes is 0 s"),
        ("target_false_reject_rate is 0.7", "the target false-reject rate is 0.7"),
        (
            "page_token cannot be combined with group_by.",
            "--page-token cannot be combined with --group-by.",
        ),
    ],
)
def test_fields_become_options(message: str, shown: str) -> None:
    assert in_options(message) == shown


@pytest.mark.parametrize(
    "message",
    [
        "there is no folder /srv/input_size/images",
        "there is no model 'max_steps'",
        "the fields are label, label_class",
        "label_class has no operator >; label_class is a text",
        "the class my_input_size is unknown",
        "input_size.png is not an image",
    ],
)
def test_names_of_the_user_are_left_alone(message: str) -> None:
    assert in_options(message) == message


def test_error_of_a_call_names_the_option(run: Run, fake: FakeServer) -> None:
    refusal = "max_memory_bytes is 5; set it above 0, or leave it out"
    fake.errors["EstimateTraining"] = [CallError(grpc.StatusCode.INVALID_ARGUMENT, refusal)]
    failed = run("train", "tile")
    assert failed.stderr == "blemish: --max-memory-gib is 5; set it above 0, or leave it out\n"
