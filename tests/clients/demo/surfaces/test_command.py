# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from blemish_client.demo.surfaces import CATEGORIES
from blemish_client.demo.surfaces.__main__ import app

FEW = ["--train", "1", "--good", "1", "--defective", "4", "--size", "48"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_category_has_a_folder_and_a_line(tmp_path: Path) -> None:
    result = run(tmp_path, *FEW, "--seed", 9)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == list(CATEGORIES)
    assert all("synthetic" in line and "seed 9" in line for line in lines)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(CATEGORIES)
    for category in CATEGORIES:
        assert len(list((tmp_path / category).rglob("*.png"))) == 1 + 1 + 4 + 4


def test_one_category_can_be_chosen(tmp_path: Path) -> None:
    assert run(tmp_path, *FEW, "--category", "grid").exit_code == 0
    assert [folder.name for folder in tmp_path.iterdir()] == ["grid"]


def test_refusal_is_one_line_and_an_exit_status(tmp_path: Path) -> None:
    refused = run(tmp_path, *FEW, "--seed", -1)
    assert (refused.exit_code, refused.stderr) == (2, "seed is -1; give 0 or more\n")
    unknown = run(tmp_path, "--category", "wood")
    assert unknown.exit_code == 2
    assert "wood" in unknown.stderr


def test_generator_imports_no_deep_learning_package() -> None:
    script = (
        "import sys; import blemish_client.demo.surfaces.__main__; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'anomalib'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"
