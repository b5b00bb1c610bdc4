# SPDX-License-Identifier: Apache-2.0
"""A shadow version scores the production version's frames and is then promoted."""

import itertools
import time
from collections.abc import Iterator

import pytest
from tests.integration.conftest import RunningStack

from blemish.v1.inspection_pb2 import STREAM_POLICY_BLOCK
from blemish.v1.job_pb2 import PatchCore
from blemish.v1.model_pb2 import ModelVersion
from blemish_client import Client, FrameResult
from blemish_client.errors import FailedPrecondition, NotFound

PRODUCTION, TRIED = "models/tried/versions/1", "models/tried/versions/2"


@pytest.fixture(scope="module")
def tried(stack: RunningStack, tile_model: str) -> str:
    """Make a model with a production version and one that rejects every image."""
    with Client(stack.address) as client:
        for ratio in (0.1, 0.05):
            small = PatchCore(input_size=64, coreset_ratio=ratio)
            job = client.wait(client.train("tile", model_id="tried", detector=small))
            assert job.error == ""
        client.promote(PRODUCTION, keep_target=False)
        client.update_calibration(TRIED, author="a test", threshold=0.0, acknowledge_extreme=True)
    return "tried"


def test_shadow_changes_no_verdict_until_it_is_promoted(
    client: Client, stack: RunningStack, tried: str
) -> None:
    with pytest.raises(FailedPrecondition, match="in production itself"):
        client.shadow(PRODUCTION)
    with pytest.raises(NotFound):
        client.shadow("tried/9")
    assert client.shadow(TRIED).shadow
    assert {version.name for model in client.models() for version in model.versions if version.shadow} == {
        TRIED
    }
    frames = [file.read_bytes() for file in sorted((stack.surfaces / "tile/test/good").iterdir())]
    card, give_up = client.model(TRIED), time.monotonic() + 60

    def camera() -> Iterator[bytes]:
        """Yield frames until the verdicts differ on at least two."""
        nonlocal card
        for frame in itertools.cycle(frames):
            card = client.model(TRIED)
            if len(card.comparison.disagreements) >= 2 or time.monotonic() > give_up:
                return
            yield frame

    for one in client.stream(camera(), tried, policy=STREAM_POLICY_BLOCK, camera="booth"):
        assert isinstance(one, FrameResult)
        assert one.answer.inspection.model_version == PRODUCTION
    check_comparison(client, card)
    promoted = client.promote(TRIED)
    assert (promoted.shadow, promoted.HasField("comparison")) == (False, False)


def check_comparison(client: Client, card: ModelVersion) -> None:
    comparison = card.comparison
    assert (comparison.production, comparison.failed) == (PRODUCTION, 0)
    assert (comparison.both_normal, comparison.only_production) == (0, 0), "nothing is normal to it"
    assert comparison.only_shadow >= len(comparison.disagreements) >= 2
    newest = comparison.disagreements[0]
    assert (newest.camera, newest.shadow_threshold) == ("booth", 0.0)
    assert newest.production_score <= newest.production_threshold
    give_up = time.monotonic() + 20
    while True:  # what is kept is written a moment later
        try:
            kept = [item.item for item in client.items(PRODUCTION, where="camera = booth")]
        except NotFound:
            kept = []
        if newest.item in kept:
            return
        assert time.monotonic() < give_up, f"{newest.item} is not among {kept}"
        time.sleep(0.2)
