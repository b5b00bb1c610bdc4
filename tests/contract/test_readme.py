# SPDX-License-Identifier: Apache-2.0
"""README tells the truth about what can be checked: settings, folders, make targets."""

import re
from pathlib import Path

from pydantic import AliasChoices

from blemish_server.settings import ServerSettings
from blemish_workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def variables() -> set[str]:
    names: set[str] = set()
    for settings in (ServerSettings, WorkerSettings):
        for name, field in settings.model_fields.items():
            alias = field.validation_alias
            if isinstance(alias, AliasChoices):
                names.add(str(alias.choices[0]))
            else:
                names.add(f"BLEMISH_{name.upper()}")
    return names


def test_every_setting_is_in_the_table_and_nothing_else() -> None:
    table = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert table == variables()


def test_the_picture_equals_the_folders() -> None:
    picture = README.split("```text", 1)[1].split("```", 1)[0]
    folders = set(re.findall(r"^([a-z]+)/", picture, re.MULTILINE))
    packages = set(re.findall(r"\b(blemish(?:_[a-z]+)?)\b(?= )", picture))
    assert folders == {path.name for path in ROOT.iterdir() if path.is_dir() and path.name in folders}
    assert folders == {"protos", "core", "server", "workers", "clients", "docker", "tests"}
    for package in packages:
        assert list(ROOT.glob(f"*/{package}")), package


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= targets
