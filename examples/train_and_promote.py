# SPDX-License-Identifier: Apache-2.0
"""Train on a folder with train/good and test/CLASS: ``python train_and_promote.py DATASET FOLDER``."""

import os
import sys

from blemish_client import Client, JobState

dataset, folder = sys.argv[1:]
with Client(os.environ.get("BLEMISH_SERVER", "localhost:50051")) as client:
    client.create_dataset(dataset)
    uploaded = client.upload(dataset, folder)
    print(f"{uploaded.stored} images stored, {uploaded.skipped_count} skipped")
    for job in client.watch(client.train(dataset)):
        for phase in job.phases:
            print(f"{phase.name} {phase.done}/{phase.total} {phase.unit}", end="\r")
    if job.state != JobState.SUCCEEDED:
        sys.exit(f"training failed: {job.error}")
    version = client.promote(job.result.model_version)
    print(f"\n{version.name} is in production, threshold {version.calibration.threshold:.3f}")
    print(f"{client.wait(client.embed(version.name, dataset)).result.indexed_images} images indexed")
