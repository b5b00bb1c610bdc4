# SPDX-License-Identifier: Apache-2.0
"""Reports of trainings and evaluations: a self-contained HTML page, and its data as files.

::

    report.html       the page, self-contained
    roc.png ...       charts
    worst-1.png ...   examples with anomaly maps
    metrics.json      metrics
    scores.csv        score of each test image
"""
