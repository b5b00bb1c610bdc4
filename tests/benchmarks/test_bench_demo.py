# SPDX-License-Identifier: Apache-2.0
"""The demo's page becomes a section: without its title and pictures, one heading level deeper."""

from tests.benchmarks.bench_demo import without_pictures


def test_title_and_pictures_are_left_out_and_headings_are_deeper() -> None:
    page = "# blemish demo\n\nText.\n\n## Search\n\n| a |\n\n## Pictures\n\n![x.jpg](x.jpg)\n"
    assert without_pictures(page) == "Text.\n\n### Search\n\n| a |"
