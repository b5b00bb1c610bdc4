# SPDX-License-Identifier: Apache-2.0
from blemish_client.types.model_scores import ModelScores
from blemish_core.evaluation.stored_scores import StoredScores
from blemish_server.converters.models import scores_to_proto


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
