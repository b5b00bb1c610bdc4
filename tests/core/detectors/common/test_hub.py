# SPDX-License-Identifier: Apache-2.0
"""The check of a hub ends within seconds, with or without a network."""

import threading
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

import pytest

from blemish_core.detectors.common import hub

REPOSITORY = "timm/resnet18.a1_in1k"


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def test_host_that_does_not_answer_is_unreachable_within_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()

    def silent(*_: object, **__: object) -> None:
        ended.wait(30)
        raise TimeoutError

    monkeypatch.setattr(urllib.request, "urlopen", silent)
    began = time.monotonic()
    try:
        assert not hub.is_reachable(REPOSITORY, "", timeout_s=0.2)
        assert time.monotonic() - began < 5
    finally:
        ended.set()


@pytest.mark.parametrize(("code", "reachable"), [(404, True), (403, False), (407, False), (503, False)])
def test_answer_of_a_proxy_is_not_one_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, code: int, *, reachable: bool
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise urllib.error.HTTPError("", code, "", Message(), None)

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    assert hub.is_reachable(REPOSITORY, "") is reachable


def test_hub_is_not_asked_offline_or_without_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked"))
    assert not hub.is_reachable("", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.is_reachable(REPOSITORY, "")


def test_file_of_an_earlier_download_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://download.example/weights/dinov2.pth"
    assert not hub.is_cached("", url)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "dinov2.pth").touch()
    assert hub.is_cached("", url)
