# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish_core.detectors.efficientad.training.photographs import installed, photographs
from blemish_core.platform.errors import FailedPrecondition


def test_photographs_of_installed_packages_are_the_default(tmp_path: Path) -> None:
    found, words = photographs(None, tmp_path / "nowhere")
    assert len(found) == len(installed()) >= 15
    assert words.endswith("installed packages")
    random = np.random.default_rng(0)
    view = found.view(64, random, grey_share=0.0)
    assert view.shape == (3, 64, 64)
    assert 0 <= float(view.min()) < float(view.max()) <= 1


def test_equal_seeds_give_equal_crops(tmp_path: Path) -> None:
    found, _ = photographs(None, tmp_path / "nowhere")
    one, two = (found.view(32, np.random.default_rng(4), grey_share=0.3) for _ in range(2))
    assert one.equal(two)


def test_grey_photographs_are_grey(tmp_path: Path) -> None:
    found, _ = photographs(None, tmp_path / "nowhere")
    red, green, blue = found.view(32, np.random.default_rng(1), grey_share=1.0)
    assert red.equal(green)
    assert green.equal(blue)


def test_configured_folder_takes_precedence(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (500, 80), "red").save(tmp_path / "deep" / "one.png")
    (tmp_path / "notes.txt").write_text("no image")
    found, _ = photographs(tmp_path, tmp_path / "nowhere")
    assert len(found) == 1
    view = found.view(16, np.random.default_rng(0), grey_share=0.0)
    assert float(view[0].mean()) == pytest.approx(1)


def test_empty_folder_is_rejected_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="BLEMISH_PHOTOGRAPHS"):
        photographs(tmp_path, tmp_path)
