# SPDX-License-Identifier: Apache-2.0
"""The stored speed of workers."""

from pathlib import Path

import pytest

from blemish_core.jobs import training_rates
from blemish_core.jobs.training_rates import RatesFile, StoredRates, TrainingRates


def rates(device: str) -> TrainingRates:
    return TrainingRates(device=device, processor="a CPU", threads=2, decode_s=1e-8)


def test_stored_speed_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "rates"
    assert RatesFile(folder, "cpu", "auto").read() is None
    RatesFile(folder, "cpu", "auto").write(rates("cpu"))
    assert RatesFile(folder, "cpu", "auto").read() == rates("cpu")
    assert RatesFile(folder, "cpu", "torch").read() is None
    assert RatesFile(folder, "cuda", "auto").read() is None


def test_speed_of_another_machine_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RatesFile(tmp_path, "cpu", "auto").write(rates("cpu"))
    monkeypatch.setattr(training_rates, "cpu_name", lambda: "another CPU")
    assert RatesFile(tmp_path, "cpu", "auto").read() is None


def test_damaged_file_counts_as_not_measured(tmp_path: Path) -> None:
    RatesFile(tmp_path, "cpu", "auto").write(rates("cpu"))
    (file,) = tmp_path.iterdir()
    file.write_bytes(b'{"device": ')
    assert RatesFile(tmp_path, "cpu", "auto").read() is None


def test_worker_publishes_each_device_once_it_is_measured(tmp_path: Path) -> None:
    stored = StoredRates(tmp_path, "auto")
    assert stored.of(["auto"]) == ()
    RatesFile(tmp_path, "cuda:0", "auto").write(rates("cuda:0"))
    assert stored.of(["cuda:0", "cuda:0", "cuda:1"]) == (rates("cuda:0"),)
    RatesFile(tmp_path, "cuda:1", "auto").write(rates("cuda:1"))
    assert stored.of(["cuda:0", "cuda:0", "cuda:1"]) == (rates("cuda:0"), rates("cuda:1"))
