# SPDX-License-Identifier: Apache-2.0
"""Benchmarks replace their own section of a page and no other."""

from pathlib import Path

import pytest
from tests.benchmarks import report
from tests.benchmarks.report import origin_of, parser, with_block, with_section

HEAD = "# Benchmarks\n\nIntroduction.\n"


def test_new_section_is_added_in_order_of_names() -> None:
    page = with_section(with_section(HEAD, "bench_b", "## B\n"), "bench_a", "## A\n")
    assert page == (
        f"{HEAD}\n<!-- bench_a -->\n## A\n<!-- /bench_a -->\n\n<!-- bench_b -->\n## B\n<!-- /bench_b -->\n"
    )


def test_section_is_replaced_and_others_stay() -> None:
    page = with_section(with_section(HEAD, "bench_a", "old\n"), "bench_b", "other\n")
    assert with_section(page, "bench_a", "new\n") == page.replace("old", "new")


def test_section_may_contain_backslashes() -> None:
    page = with_section(HEAD, "bench_a", "old\n")
    assert r"\1 \g<0>" in with_section(page, "bench_a", "\\1 \\g<0>\n")


def test_block_is_replaced_in_place() -> None:
    page = "before\n<!-- bench_a -->\nold\n<!-- /bench_a -->\nafter\n"
    assert with_block(page, "bench_a", "new\n") == page.replace("old", "new")


def test_missing_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="no block 'bench_a'"):
        with_block("text\n", "bench_a", "new\n")


def test_origin_names_command_without_folders_of_this_machine() -> None:
    line = origin_of("tests.benchmarks.bench_a", ["/some/where/leather", "--size", "320"])
    assert line.startswith("`python -m tests.benchmarks.bench_a leather --size 320`, ")
    assert "/some" not in line


@pytest.mark.parametrize("keep", [True, False])
def test_section_is_kept_on_request(keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(HEAD)
    monkeypatch.setattr(report, "PAGE", page)
    with report.page_section("bench_a", "A", keep=keep) as made:
        made.write("a figure")
    assert page.read_text().startswith(HEAD)
    assert ("a figure" in page.read_text()) is keep


def test_page_is_written_unless_declined() -> None:
    assert not parser("").parse_args([]).no_page
    assert parser("").parse_args(["--no-page"]).no_page
