# SPDX-License-Identifier: Apache-2.0
from enum import StrEnum
from typing import Any

import pytest

from blemish.v1.inspection_pb2 import PRIORITY_LINE_STOP, Priority, Store, StreamPolicy
from blemish.v1.job_pb2 import JobPriority, JobState
from blemish.v1.search_pb2 import Label
from blemish_client.cli import choices
from blemish_client.cli.choices import spell, to_proto


def test_words_are_separated_by_dashes() -> None:
    assert spell(Priority, PRIORITY_LINE_STOP) == "line-stop"
    assert to_proto(Priority, choices.PriorityChoice.LINE_STOP) == PRIORITY_LINE_STOP


@pytest.mark.parametrize(
    ("choice", "enum"),
    [
        (choices.PolicyChoice, StreamPolicy),
        (choices.PriorityChoice, Priority),
        (choices.StoreChoice, Store),
        (choices.LabelChoice, Label),
        (choices.JobStateChoice, JobState),
        (choices.JobPriorityChoice, JobPriority),
    ],
)
def test_choices_cover_the_values_of_the_contract(choice: type[StrEnum], enum: Any) -> None:
    assert [to_proto(enum, each) for each in choice] == enum.values()[1:]
    assert [spell(enum, to_proto(enum, each)) for each in choice] == list(choice)
