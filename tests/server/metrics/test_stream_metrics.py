# SPDX-License-Identifier: Apache-2.0
"""Metrics of streams while they are open and after."""

from typing import Any

from blemish_server.metrics.stream_metrics import StreamMetrics
from blemish_server.scoring.frame_queue import FrameQueue, FrameSlot, StreamPolicy


def make_queue(policy: StreamPolicy) -> FrameQueue[Any, None]:
    async def score(slot: FrameSlot[Any]) -> None:
        raise AssertionError("no frame is scored here")

    return FrameQueue(score, policy)


def collect(streams: StreamMetrics) -> dict[str, dict[str, float]]:
    """Return the samples by metric and policy."""
    return {
        family.name: {sample.labels["policy"]: sample.value for sample in family.samples}
        for family in streams.collect()
    }


def test_frames_are_counted_while_their_stream_is_open_and_after() -> None:
    streams = StreamMetrics()
    camera, other = make_queue(StreamPolicy.LATEST), make_queue(StreamPolicy.LATEST)
    strict = make_queue(StreamPolicy.REJECT)
    with streams.track(other):
        with streams.track(camera), streams.track(strict):
            camera.frames, camera.dropped = 10, 4
            strict.frames, strict.rejected = 5, 1
            open_now = collect(streams)
        other.frames = 1
        afterwards = collect(streams)
    assert open_now == {
        "blemish_streams": {"latest": 2, "block": 0, "reject": 1},
        "blemish_streamed_frames": {"latest": 10, "block": 0, "reject": 5},
        "blemish_dropped_frames": {"latest": 4, "block": 0, "reject": 0},
        "blemish_rejected_frames": {"latest": 0, "block": 0, "reject": 1},
    }
    assert afterwards["blemish_streams"] == {"latest": 1, "block": 0, "reject": 0}
    assert afterwards["blemish_streamed_frames"] == {"latest": 11, "block": 0, "reject": 5}
    assert collect(streams)["blemish_streamed_frames"] == afterwards["blemish_streamed_frames"]
