# SPDX-License-Identifier: Apache-2.0
import io

from rich.console import Console
from tests.support.fake_server import version

from blemish_client.cli.figures import metrics_tables


def test_metrics_with_intervals_fit_80_columns() -> None:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(metrics_tables(version("models/m/versions/1").metrics, "on tile"))
    text = capture.get()
    assert "0.990  0.910-1.000" in text
    assert "0.900-1.000" in text  # the interval of the class is on one line
    assert "0-100 %" in text
    assert "12.0" in text
    assert max(map(len, text.splitlines())) <= 80


def test_figures_name_their_threshold() -> None:
    console = Console(width=80, file=io.StringIO())
    metrics = version("models/m/versions/1").metrics
    metrics.threshold, metrics.regions_threshold, metrics.regions_pixel_threshold = 14.0, 9.906, 11.25
    metrics.false_reject_rate, metrics.detection_rate, metrics.f1, metrics.region_iou = 0, 0.5, 0.6, 0.7
    with console.capture() as capture:
        console.print(metrics_tables(metrics, "on tile"))
    lines = [line.strip() for line in capture.get().splitlines()]
    for label in ("F1", "good images rejected", "defective images detected"):
        assert any(line.startswith(f"{label} at threshold 14.000 ") for line in lines), label
    assert "classes, detected at threshold 14.000" in lines
    regions = {line.split("  ")[0]: line.split()[-1] for line in lines if line.startswith("regions: ")}
    assert regions["regions: threshold of these figures"] == "9.906"
    assert regions["regions: pixel threshold"] == "11.250"
    assert max(map(len, lines)) <= 80
