# SPDX-License-Identifier: Apache-2.0
"""Score files: ``python score.py MODEL IMAGE...``."""

import os
import sys

from blemish_client import Client, Verdict, anomaly_map

model, *images = sys.argv[1:]
with Client(os.environ.get("BLEMISH_SERVER", "localhost:50051")) as client:
    for image in images:
        inspection = client.score(image, model, anomaly_map=True, regions=True)
        verdict = "anomalous" if inspection.verdict == Verdict.ANOMALOUS else "normal"
        print(f"{image}: {verdict}, score {inspection.score:.3f}, threshold {inspection.threshold:.3f}")
        scores = anomaly_map(inspection)
        if scores is not None:
            print(f"  map {scores.shape[1]} x {scores.shape[0]}, highest pixel {scores.max():.3f}")
        for region in inspection.regions:
            box = region.box
            print(f"  defect of {box.width} x {box.height} px at {box.left}, {box.top}")
