# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest
import timm
import torch
from typer.testing import CliRunner

from blemish_core.models.commands import app


def test_import_keeps_the_weights_in_the_store(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "r.pth")
    result = CliRunner().invoke(
        app, ["import", "resnet18", str(tmp_path / "r.pth"), "--store", str(tmp_path / "store")]
    )
    assert result.exit_code == 0
    assert (tmp_path / "store" / "weights" / "resnet18.safetensors").exists()
    assert "training jobs may name it" in result.stdout


@pytest.mark.parametrize("name", ["missing.pth", "text.pth"])
def test_unusable_file_is_reported_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.pth").write_text("text")
    result = CliRunner().invoke(app, ["import", "resnet18", str(tmp_path / name), "--store", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("blemish: ")
    assert result.stderr.count("\n") == 1


def test_fetch_rejects_an_unknown_name() -> None:
    result = CliRunner().invoke(app, ["fetch", "imagenet"])
    assert result.exit_code == 2
    assert "imagenette" in result.stderr
