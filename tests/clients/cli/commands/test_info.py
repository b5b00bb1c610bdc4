# SPDX-License-Identifier: Apache-2.0
"""``blemish info``: what a person sees of a running server."""

from tests.support.cli import Run, json_lines


def test_info_shows_disk_streams_and_cameras(run: Run) -> None:
    lines = run("info").stdout.splitlines()

    (disk,) = (line for line in lines if line.strip().startswith("disk"))
    assert "400.0 MB free of 8.0 GB, full: the disk has 400.0 MB free; free some space" in disk
    stream, camera = (line.split() for line in lines if line.strip().startswith("line-3"))
    assert stream[1:4] == ["tile", "-", "latest"]
    assert "25.0 900 12 0 anomalous, score 12.500," in " ".join(stream)
    assert camera[:5] == ["line-3", "25.0", "tile/3", "anomalous,", "score"]
    assert any(line.strip().startswith("[red]lab") for line in lines)


def test_info_in_json_has_the_same(run: Run) -> None:
    (info,) = json_lines(run("info", "--json"))

    assert info["disk"]["shortage"] == "the disk has 400.0 MB free; free some space"
    assert info["streams"][0]["frames_per_second"] == 24.96
    assert info["cameras"][0]["last"]["verdict"]
