# SPDX-License-Identifier: Apache-2.0
"""The comparison of two versions as a page: what its figures mean, and who may start an evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from nicegui import ui
from nicegui.testing import user_simulation
from tests.support.console import Callers, FakeClient, FakeServer

from blemish.v1.access_pb2 import ROLE_OPERATOR, ROLE_SERVICE, Role
from blemish.v1.dataset_pb2 import Dataset
from blemish.v1.job_pb2 import Job
from blemish.v1.model_pb2 import CompareModelsResponse, Interval, MetricComparison, Model, ModelVersion
from blemish_client.client import Client
from blemish_client.errors import FailedPrecondition
from blemish_console import texts
from blemish_console.pages import compare
from blemish_console.session import SessionStore
from blemish_console.shell import View


class UnmeasuredClient(FakeClient):
    """A client of a server with two versions without an evaluation."""

    def models(self) -> Iterator[Model]:
        yield Model(name="models/tile", versions=[self.model("tile/2"), self.model("tile/1")])

    def model(self, name: str) -> ModelVersion:
        return ModelVersion(name=f"models/tile/versions/{name[-1]}", dataset="datasets/tile")

    def dataset(self, name: str) -> Dataset:
        return Dataset(name="datasets/tile", snapshot="now")

    def jobs(self, **options: Any) -> Iterator[Job]:
        yield from ()

    def compare(self, first: str, second: str, *, dataset: str = "") -> CompareModelsResponse:
        raise FailedPrecondition("no evaluation", code=grpc.StatusCode.FAILED_PRECONDITION)


@dataclass(frozen=True)
class UnmeasuredServer(FakeServer):
    """A server with these versions."""

    def client(self, token: str) -> Client:
        return UnmeasuredClient(self.callers, token)


@pytest.mark.parametrize(("role", "is_offered"), [(ROLE_OPERATOR, True), (ROLE_SERVICE, False)])
async def test_only_operators_may_start_the_missing_evaluations(
    role: Role.ValueType, is_offered: bool
) -> None:
    store = SessionStore(UnmeasuredServer("127.0.0.1:1", callers=Callers({"token": ("ann", role)})), 3600)
    session = store.find(await store.sign_in("token"))
    assert session is not None
    async with user_simulation() as user:

        @ui.page("/compare")
        async def show() -> None:
            await compare.build(View(session, "127.0.0.1:1", {"model": "tile"}))

        await user.open("/compare")
        await user.should_see("No evaluation on the present test images of tile: tile/1 and tile/2.")
        if is_offered:
            await user.should_see("Evaluate tile/1 and tile/2 on tile")
        else:
            await user.should_see(texts.ASK_FOR_EVALUATION)
            await user.should_not_see("Evaluate tile/1 and tile/2 on tile")
    store.close()


@pytest.mark.parametrize(
    ("name", "difference", "interval", "word"),
    [
        ("detection_rate", 0.2, Interval(low=0.1, high=0.3), texts.BETTER),
        ("detection_rate", -0.2, Interval(low=-0.3, high=-0.1), texts.WORSE),
        ("false_reject_rate", 0.2, Interval(low=0.1, high=0.3), texts.WORSE),
        ("false_reject_rate", -0.2, Interval(low=-0.3, high=-0.1), texts.BETTER),
        ("image_auroc", 0.2, Interval(low=0.0, high=0.3), texts.WITHIN_CHANCE),
    ],
)
def test_difference_is_better_or_worse_only_beyond_chance(
    name: str, difference: float, interval: Interval, word: str
) -> None:
    metric = MetricComparison(name=name, difference=difference, difference_interval=interval)
    assert compare.difference_sign(metric).word == word


def test_value_has_its_interval_and_one_unit() -> None:
    interval = Interval(low=-0.05, high=0.2)
    assert compare.with_interval(0.125, interval, is_rate=True) == "12.5 % (-5.0 to 20.0)"
    assert (
        compare.with_interval(0.125, interval, is_rate=False, is_signed=True) == "+0.125 (-0.050 to +0.200)"
    )
    assert compare.with_interval(0.5, Interval(), is_rate=False) == "0.500"
