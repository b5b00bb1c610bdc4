# SPDX-License-Identifier: Apache-2.0
"""Confirm the worst image without a label as a defect: ``python label.py MODEL CLASS``."""

import os
import sys

from blemish_client import Client, Label

model, label_class = sys.argv[1:]
with Client(os.environ.get("BLEMISH_SERVER", "localhost:50051")) as client:
    unlabelled = client.items(model, where="label = NONE AND verdict = ANOMALOUS")
    worst = max(unlabelled, key=lambda item: item.score, default=None)
    if worst is None:
        sys.exit("every anomalous image has a label")
    labelled = client.label(worst.item, model, Label.CONFIRMED, label_class)
    print(f"{labelled.item}: {Label(labelled.label).name} {labelled.label_class}, score {worst.score:.3f}")
