# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest
import timm
import torch

from blemish_core.models.weights import main


def test_weights_come_into_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "r.pth")
    assert main(["import", "resnet18", str(tmp_path / "r.pth"), "--store", str(tmp_path / "store")]) == 0
    assert (tmp_path / "store" / "weights" / "resnet18.safetensors").exists()
    assert "train jobs may name it" in capsys.readouterr().out


def test_what_does_not_fit_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "resnet18", str(tmp_path / "nonesuch"), "--store", str(tmp_path)]) == 2
    (tmp_path / "text.pth").write_text("text")
    assert main(["import", "resnet18", str(tmp_path / "text.pth"), "--store", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 2
