# SPDX-License-Identifier: Apache-2.0
"""Every docstring, comment, help text, error, log event, test name and page follows docs/style.md."""

from pathlib import Path

import pytest
from tests.support.prose import ROOT, Passage, files, findings, passages

PARTS = ("protos", "core", "server", "workers", "clients", "docker", "tests", "docs")
LOOSE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", ".ci/run")


def found(text: str, kind: str = "docstring") -> list[str]:
    return [finding.reason for finding in findings(Passage(Path("x.py"), 1, kind, text))]


@pytest.mark.parametrize("part", PARTS)
def test_prose_of_folder_follows_style(part: str) -> None:
    broken = [
        str(finding)
        for file in files([ROOT / part])
        for passage in passages(file)
        for finding in findings(passage)
    ]
    assert not broken, f"{len(broken)} findings:\n" + "\n".join(broken[:40])


@pytest.mark.parametrize("name", LOOSE)
def test_prose_of_file_follows_style(name: str) -> None:
    broken = [str(finding) for passage in passages(ROOT / name) for finding in findings(passage)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    "text",
    [
        "What a worker does.",
        "Of one attempt.",
        "Return it. And log it.",
        "Return it so that nobody waits.",
        "The server tells the client.",
        "The client and his token.".replace("his", "his own"),
        "Word " * 31,
    ],
)
def test_checker_finds_each_rule(text: str) -> None:
    assert found(text)


@pytest.mark.parametrize("text", ["Return the job's record.", "Known limits: none.", "``What`` is code."])
def test_checker_accepts_plain_prose(text: str) -> None:
    assert not found(text)


def test_checker_reads_every_kind_of_passage(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        '"""What a module is."""\n'
        "import logging\n"
        "log = logging.getLogger()\n"
        "# Of one thing.\n"
        "def test_who_waits(help: str) -> None:\n"
        '    log.info("nobody came")\n'
        '    print(help="Whose it is.")\n'
        '    raise ValueError(f"what {help} is")\n'
    )
    kinds = {f.passage.kind for p in passages(file) for f in findings(p)}
    assert kinds == {"docstring", "comment", "test name", "log event", "help text", "error"}
