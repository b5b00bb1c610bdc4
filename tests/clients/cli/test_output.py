# SPDX-License-Identifier: Apache-2.0
import json

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, Region
from blemish.v1.inspection_pb2 import (
    CONSENSUS_FALSE_ALARMS,
    DefectClass,
    Inspection,
    ScoreStreamResponse,
    StreamConfig,
)
from blemish.v1.job_pb2 import JOB_STATE_RUNNING, Job, JobEvent
from blemish.v1.model_pb2 import Metrics, ModelVersion
from blemish.v1.search_pb2 import LABEL_FALSE_ALARM, Hit
from blemish_client.cli.output import plain


def test_enums_are_spelled_as_on_the_command_line_and_null_if_unspecified() -> None:
    inspection = Inspection(verdict=VERDICT_ANOMALOUS)
    inspection.defect_class.CopyFrom(DefectClass(consensus=CONSENSUS_FALSE_ALARMS))
    fields = plain(inspection)
    assert fields["verdict"] == "anomalous"
    assert fields["defect_class"]["consensus"] == "false-alarms"
    assert plain(Hit(label=LABEL_FALSE_ALARM))["label"] == "false-alarm"
    assert plain(Hit())["label"] is None
    job = plain(Job(state=JOB_STATE_RUNNING, history=[JobEvent(state=JOB_STATE_RUNNING)]))
    assert (job["state"], job["history"][0]["state"]) == ("running", "running")


def test_value_of_a_newer_server_stays_a_number() -> None:
    newer = Inspection.FromString(b"\x18\x63")  # field 3, verdict 99
    assert plain(newer)["verdict"] == 99


def test_durations_are_numbers_of_seconds() -> None:
    inspection = Inspection()
    inspection.timings.inference.FromMicroseconds(12_500)
    inspection.timings.queue.SetInParent()
    timings = plain(inspection)["timings"]
    assert timings == {"inference_s": 0.0125, "queue_s": 0.0}
    config = StreamConfig()
    config.max_latency.FromSeconds(90)
    assert plain(config)["max_latency_s"] == 90.0


def test_long_integers_are_numbers() -> None:
    answer = ScoreStreamResponse(sequence=2**40, inspection=Inspection(score=9.906))
    fields = plain(answer)
    assert fields["sequence"] == 2**40
    assert fields["inspection"]["score"] == 9.906
    assert plain(ModelVersion(size_bytes=3))["size_bytes"] == 3


def test_maps_and_times_are_kept() -> None:
    card = ModelVersion(settings={"size": "256"})
    card.create_time.FromJsonString("2026-12-02T06:00:00Z")
    metrics = Metrics()
    metrics.intervals["auroc"].low = 0.5
    card.metrics.CopyFrom(metrics)
    fields = plain(card)
    assert fields["settings"] == {"size": "256"}
    assert fields["create_time"] == "2026-12-02T06:00:00Z"
    assert fields["metrics"]["intervals"]["auroc"]["low"] == 0.5
    assert json.loads(json.dumps(fields)) == fields


def test_fields_are_in_the_order_of_the_contract() -> None:
    assert list(plain(Region(top=3, width=2))) == ["left", "top", "width", "height"]
