# SPDX-License-Identifier: Apache-2.0
"""Files in the store of models that another program has damaged or replaced."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.manifests import make_manifest

from blemish_core.models import bundle
from blemish_core.models.loading import load_detector
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import Corrupt
from blemish_core.platform.names import ModelRef

REF = ModelRef("tile", 1)

Damage = Callable[[Path], object]


def fifo(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def device(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero")


def huge(file: Path) -> None:
    with file.open("wb") as out:
        out.truncate(1 << 40)  # sparse


def folder(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def rubbish(file: Path) -> None:
    file.write_bytes(b'{"production": "x", "a": [')


def nested(file: Path) -> None:
    file.write_bytes(b'{"settings":' * 50_000)


DAMAGES: tuple[Damage, ...] = (fifo, device, huge, folder, rubbish, nested)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    models = ModelStore(tmp_path / "models")

    def write(staging: Path, number: int) -> None:
        (staging / bundle.WEIGHTS).write_bytes(b"weights")
        manifest = make_manifest("tile", number, "a").model_copy(
            update={"sha256": {bundle.WEIGHTS: bundle.sha256(staging / bundle.WEIGHTS)}}
        )
        bundle.write_manifest(manifest, staging)

    models.publish("tile", "a", write)
    models.promote(REF)
    return models


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_manifest_is_reported(store: ModelStore, damage: Damage) -> None:
    damage(store.folder("tile", 1) / bundle.MANIFEST)
    with pytest.raises(Corrupt, match=r"manifest\.json"):
        store.manifest(REF)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_alias_is_reported(store: ModelStore, damage: Damage) -> None:
    damage(store.folder("tile", 1).parent / "aliases.json")
    with pytest.raises(Corrupt, match=r"aliases\.json"):
        store.production("tile")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["shadow", "last"])
def test_damaged_number_is_reported(store: ModelStore, damage: Damage, name: str) -> None:
    damage(store.folder("tile", 1).parent / name)
    with pytest.raises(Corrupt, match=name):
        if name == "shadow":
            store.shadow("tile")
        else:
            store.publish("tile", "b", lambda staging, number: None)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_calibration_is_reported(store: ModelStore, damage: Damage) -> None:
    home = store.folder("tile", 1) / "calibration"
    home.mkdir()
    damage(home / "2.json")
    with pytest.raises(Corrupt, match=r"2\.json"):
        store.calibrations(store.manifest(REF)).newest()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", [fifo, device, folder, rubbish])
def test_damaged_weights_are_not_loaded(store: ModelStore, damage: Damage) -> None:
    damage(store.folder("tile", 1) / bundle.WEIGHTS)
    with pytest.raises(Corrupt, match=r"weights\.safetensors"):
        load_detector(store.folder("tile", 1), "cpu")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", [fifo, device, huge, folder, rubbish])
def test_damaged_mask_of_a_training_is_reported(store: ModelStore, damage: Damage) -> None:
    store.keep_mask(b"png", "0" * 64)
    (file,) = (store.folder("tile", 1).parents[1] / ".masks").iterdir()
    damage(file)
    with pytest.raises(Corrupt, match="mask"):
        store.mask("0" * 64)
