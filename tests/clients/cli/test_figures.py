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
