# SPDX-License-Identifier: Apache-2.0
"""What a training or an evaluation leaves for people: one HTML page that needs nothing else, and its PNGs.

::

    report.html       everything in one file: no script, no font and no picture from anywhere
    roc.png ...       the charts of the page
    worst-1.png ...   the most telling images, each beside its anomaly map
    metrics.json      the figures
    scores.csv        every test image with its score and verdict
"""

from blemish_core.report.write import EvaluationRun, Report, write

__all__ = ["EvaluationRun", "Report", "write"]
