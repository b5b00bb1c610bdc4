# SPDX-License-Identifier: Apache-2.0
from datetime import timedelta

from tests.support.manifests import make_manifest

from blemish_client.types.model_scores import ModelScores
from blemish_core.evaluation.stored_scores import StoredScores
from blemish_core.models.calibration_log import Revision, ThresholdRule
from blemish_core.runtimes.card import FrameLatency
from blemish_server.converters.models import model_version_to_proto, scores_to_proto


def test_scores_ascend_over_messages_that_fit_the_limit() -> None:
    held_out = [float(score) for score in range(20_000)]
    tested = StoredScores({"crack": (5.0, 4.0), "good": (1.0,)})
    received = ModelScores()
    sizes = []
    for message in scores_to_proto(held_out, tested):
        sizes.append(message.ByteSize())
        received.add(message)
    assert received.held_out == held_out
    assert received.by_class == {"crack": [4.0, 5.0], "good": [1.0]}
    assert len(sizes) == 5
    assert max(sizes) < 100_000


def test_version_without_test_images_has_held_out_scores_alone() -> None:
    [message] = scores_to_proto([1.0, 2.0], None)
    assert message.held_out
    assert list(message.scores) == [1.0, 2.0]


def test_version_has_the_measured_time_of_a_frame() -> None:
    measured = FrameLatency(
        runtime="openvino",
        device="cpu",
        processor="Some CPU",
        threads=1,
        median_s=0.0125,
        frames=5,
        width=640,
        height=480,
    )
    manifest = make_manifest("tile", 1, "job").model_copy(update={"latencies": (measured,)})
    revision = Revision(1, ThresholdRule.TRAINED, "", manifest.created, "", manifest.calibration)
    [row] = model_version_to_proto(manifest, revision, None, production=False, shadow=False).latencies
    assert row.median.ToTimedelta() == timedelta(milliseconds=12.5)
    assert (row.runtime, row.device, row.processor, row.threads) == ("openvino", "cpu", "Some CPU", 1)
    assert (row.frames, row.width, row.height) == (5, 640, 480)
