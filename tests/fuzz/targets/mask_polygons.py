# SPDX-License-Identifier: Apache-2.0
"""Masks of models as polygons, in the JSON that the client reads and the message that the server reads."""

from tests.fuzz.target import Target

from blemish.v1.job_pb2 import Train
from blemish_client.transport.requests import training_mask
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import BlemishError
from blemish_server.converters.jobs import parse_mask

LIMITS = ImageLimits(min_side=4, max_side=512, max_pixels=1 << 16)


def run(data: bytes) -> None:
    train = Train(mask=training_mask(data))
    mask = parse_mask(train, LIMITS)
    assert mask is not None
    if train.mask.WhichOneof("content") == "polygons":
        assert mask.shape == (train.mask.polygons.height, train.mask.polygons.width)


def seeds() -> dict[str, bytes]:
    return {
        "ignore": b'{"width": 64, "height": 48, "ignore": [[[0, 0], [10, 0], [10, 10]]]}',
        "both": b'{"width":20,"height":20,"include":[[[1,1],[19,1],[19,19],[1,19]]],'
        b'"ignore":[[[5.5,5],[9e0,5],[7,9]]]}',
        "empty": b'{"width": 64, "height": 48}',
        "crossing": b'{"width":20,"height":20,"ignore":[[[0,0],[9,9],[9,0],[0,9]]]}',
        "numbers": b'{"width":20,"height":20,"ignore":[[[NaN,-0.0],[Infinity,9],[1e999,0],[1e308,9]]]}',
    }


_WORDS = ('"width":', '"height":', '"include":', '"ignore":', "[[[", "]]]", "NaN", "-0.0", "1e999", "2000")

TARGET = Target(run, seeds, words=_WORDS, expected=(BlemishError, ValueError))
