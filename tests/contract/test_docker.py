# SPDX-License-Identifier: Apache-2.0
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
RECIPE = (DOCKER / "Dockerfile").read_text()
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", RECIPE)).splitlines()
    if line.strip()
]
COPIED = [
    source
    for name, rest in INSTRUCTIONS
    if name == "COPY" and not rest.startswith("--from")
    for source in shlex.split(rest)[:-1]
]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
BUILT = ["server", "worker"]


@pytest.mark.parametrize("source", COPIED)
def test_copied_file_exists_and_is_not_ignored(source: str) -> None:
    ignore_rules = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()

    assert (ROOT / source).exists()
    assert f"!{source}" in ignore_rules


def test_every_package_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert {Path(package).parts[0] for package in packages} <= set(COPIED)


@pytest.mark.parametrize("name", BUILT)
def test_image_runs_a_script_of_the_package(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    stages = RECIPE.split("\nFROM ")
    stage = next(text for text in stages if text.splitlines()[0].endswith(f" AS {name}"))

    command = re.search(r'^CMD \["([^"]+)"\]$', stage, re.MULTILINE)

    assert command is not None
    assert command[1] in project["project"]["scripts"]
    assert "HEALTHCHECK" in stage
    assert stage.startswith("base ")


def test_images_do_not_run_as_root() -> None:
    base = next(text for text in RECIPE.split("\nFROM ") if " AS base\n" in text)

    assert re.search(r"(?m)^USER (?!root|0)", base)
    assert RECIPE.count("\nUSER ") == 1


@pytest.mark.parametrize("name", BUILT)
def test_service_builds_its_target_and_waits_for_its_dependencies(name: str) -> None:
    service = SERVICES[name]

    assert service["build"]["target"] == name
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert set(service["depends_on"]) == {"redis", "qdrant"}
    for other, condition in service["depends_on"].items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[other]


def test_server_and_worker_share_their_settings() -> None:
    server, worker = (SERVICES[name]["environment"] for name in BUILT)

    assert worker.items() <= server.items()
    assert set(server) - set(worker) == {"BLEMISH_LISTEN", "BLEMISH_METRICS_LISTEN"}
    assert SERVICES["server"]["volumes"] == SERVICES["worker"]["volumes"]
    assert server["REDIS_URL"].startswith("redis://redis:")
    assert server["QDRANT_URL"].startswith("http://qdrant:")


def test_only_the_server_is_published_and_only_locally() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {"server": ["${BLEMISH_PUBLISH:-127.0.0.1:50051}:50051"]}
