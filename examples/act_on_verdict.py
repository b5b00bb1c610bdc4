# SPDX-License-Identifier: Apache-2.0
"""Decide for each part of a line: ``python act_on_verdict.py MODEL FOLDER``."""

import os
import sys
from pathlib import Path

from blemish_client import Client, Frame, LostFrames, Priority, StreamPolicy, Verdict


def reject(name: str, reason: str) -> None:
    """Stand in for the output that operates the ejector."""
    print(f"reject {name}: {reason}")


model, folder = sys.argv[1:]
parts = (Frame(file, name=file.name, camera="line-1") for file in sorted(Path(folder).glob("*.png")))
with Client(os.environ.get("BLEMISH_SERVER", "localhost:50051")) as client:
    # A part that was not inspected is rejected, too: only a normal verdict lets it pass.
    for result in client.stream(parts, model, policy=StreamPolicy.REJECT, priority=Priority.LINE_STOP):
        if isinstance(result, LostFrames):
            for name in result.names:
                reject(name, result.cause)
        elif result.inspection is None:
            reject(result.name, result.answer.refusal.message)
        elif result.inspection.verdict != Verdict.NORMAL:
            reject(result.name, f"score {result.inspection.score:.3f}")
        else:
            print(f"pass {result.name}")
