# SPDX-License-Identifier: Apache-2.0
"""The manifest and a calibration of a model version in the store."""

import json

from tests.fuzz.target import Target, scratch
from tests.support.manifests import make_manifest

from blemish_core.models import bundle
from blemish_core.models.calibration_log import CalibrationLog
from blemish_server.converters.models import calibration_to_proto, model_version_to_proto


def run(data: bytes) -> None:
    manifest_json, _, revision_json = data.partition(b"\0")
    with scratch() as folder:
        (folder / bundle.MANIFEST).write_bytes(manifest_json)
        if revision_json:
            (folder / "calibration").mkdir()
            (folder / "calibration" / "2.json").write_bytes(revision_json)
        manifest = bundle.read_manifest(folder)
        log = CalibrationLog(folder, manifest)
        message = model_version_to_proto(
            manifest, log.newest(), manifest.metrics, production=False, shadow=False, history=log.history(9)
        )
        message.SerializeToString()
        calibration_to_proto(log.newest(), manifest.metrics)


def seeds() -> dict[str, bytes]:
    manifest = make_manifest("tile", 1, "a").model_dump_json().encode()
    revision = {
        "rule": "fixed",
        "value": 1.5,
        "author": "maria",
        "updated": "2026-01-01T00:00:00Z",
        "comment": "stricter",
        "threshold": 1.5,
        "pixel_threshold": 2.0,
        "warranted_false_reject_rate": 0.5,
        "regions": {"max_regions": 3, "mm_per_px": 0.1},
    }
    return {"manifest": manifest, "calibrated": manifest + b"\0" + json.dumps(revision).encode()}


_WORDS = (
    '"settings":',
    '"metrics":',
    '"mask":',
    '"reference":',
    '"runtimes":',
    '"calibration":',
    '"scores":',
    '"map_maxima":',
    '"regions":',
    '"held_out":',
    "null",
    "NaN",
    "Infinity",
    "1e308",
    "-1",
)

TARGET = Target(run, seeds, words=_WORDS, max_bytes=8192)
