# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the estimated cost of a training."""

from datetime import UTC, datetime

import pytest

from blemish_core.imaging.geometry import Size
from blemish_core.jobs.estimate import WorkerSpeed, estimate, slowest, speeds_of
from blemish_core.jobs.record import EfficientAdSpec, PatchCoreSpec, TrainSpec
from blemish_core.jobs.training_rates import EfficientAdRates, PatchCoreRates, TrainingRates
from blemish_core.jobs.worker_registry import WorkerInfo
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest

SQUARE: Size = (320, 320)
PATCHES = 40 * 40
PATCHCORE = PatchCoreRates(
    backbone="efficientnet_lite2",
    features_s=1e-5,
    pair_s=1e-9,
    frame_features_s=2e-5,
    frame_search_s=((2_000, 1e-5), (10_000, 3e-5)),
    publish_s=0.5,
    checked_s=5e-5,
)
EFFICIENTAD = EfficientAdRates(size="small", solved=True, teacher_s=0.1, step_s=0.2, frame_s=0.05)
RATES = TrainingRates(
    device="cpu",
    processor="a CPU",
    threads=2,
    decode_s=1e-8,
    patchcore=PATCHCORE,
    efficientad=EFFICIENTAD,
)


def spec(**settings: object) -> TrainSpec:
    return TrainSpec(dataset="tile", model_id="tile", patchcore=PatchCoreSpec.model_validate(settings))


def efficientad(**settings: object) -> TrainSpec:
    return TrainSpec(dataset="tile", model_id="tile", efficientad=EfficientAdSpec.model_validate(settings))


def worker(name: str, *rates: TrainingRates, queues: tuple[str, ...] = ("train",)) -> WorkerInfo:
    return WorkerInfo(
        name=name,
        version="1",
        queues=queues,
        devices=("cpu",),
        started=datetime.now(UTC),
        rates=rates,
    )


def test_bank_has_a_tenth_of_the_patches_up_to_its_limit() -> None:
    assert estimate(spec(), [SQUARE] * 20, [], RATES).bank_entries == 20 * PATCHES // 10
    assert estimate(spec(), [SQUARE] * 266, [], RATES).bank_entries == 10_000
    assert estimate(spec(max_entries=500), [SQUARE] * 266, [], RATES).bank_entries == 500


def test_features_take_the_time_of_all_patches() -> None:
    found = estimate(spec(), [SQUARE] * 20, [], RATES)
    assert found.phases["features"] == pytest.approx(20 * PATCHES * 1e-5)
    assert found.phases["evaluation"] == 0
    larger = estimate(spec(input_size=640), [SQUARE] * 20, [], RATES)
    assert larger.phases["features"] == pytest.approx(4 * found.phases["features"])
    assert larger.input == (640, 640)


def test_memory_bank_takes_less_time_with_fewer_entries() -> None:
    many = estimate(spec(), [SQUARE] * 266, [], RATES).phases["memory bank"]
    few = estimate(spec(max_entries=1_000), [SQUARE] * 266, [], RATES).phases["memory bank"]
    assert few == pytest.approx(many / 10)


def test_large_sets_are_held_out_and_need_one_bank() -> None:
    crossed = estimate(spec(), [SQUARE] * 499, [], RATES).phases["memory bank"]
    held_out = estimate(spec(), [SQUARE] * 500, [], RATES).phases["memory bank"]
    assert held_out < crossed / 2


def test_frame_takes_features_and_a_search_on_the_line_between_two_banks() -> None:
    small = estimate(spec(max_entries=2_000), [SQUARE] * 266, [], RATES)
    between = estimate(spec(max_entries=6_000), [SQUARE] * 266, [], RATES)
    assert small.frame_s == pytest.approx(PATCHES * (2e-5 + 1e-5))
    assert between.frame_s == pytest.approx(PATCHES * (2e-5 + 2e-5))


def test_test_images_are_read_and_scored() -> None:
    without = estimate(spec(), [SQUARE] * 20, [], RATES)
    found = estimate(spec(), [SQUARE] * 20, [SQUARE] * 10, RATES)
    assert found.phases["images"] - without.phases["images"] == pytest.approx(10 * 320 * 320 * 1e-8)
    assert found.phases["evaluation"] > 0
    assert found.training_s == pytest.approx(sum(found.phases.values()))


def test_publication_takes_as_long_as_that_of_the_last_job() -> None:
    earlier = {"features": 99.0, "openvino": 3.0, "publish": 4.0}
    found = estimate(spec(), [SQUARE] * 20, [], RATES, earlier)
    assert found.phases["publication"] == 7.0
    assert found.phases["features"] == pytest.approx(20 * PATCHES * 1e-5)


def test_efficientad_takes_its_time_limit() -> None:
    assert estimate(efficientad(max_seconds=90), [SQUARE] * 50, [], RATES).phases["training"] == 90
    assert estimate(efficientad(), [SQUARE] * 50, [], RATES).phases["training"] == 300


def test_efficientad_with_few_steps_takes_images_and_steps() -> None:
    found = estimate(efficientad(max_steps=10), [SQUARE] * 8, [], RATES)
    learned = 8 - 2 - 1  # a fifth of them is held out, and half as many validate
    assert found.phases["training"] == pytest.approx(3 * learned * 0.1 + 10 * 0.2)
    larger = estimate(efficientad(max_steps=10, input_size=512), [SQUARE] * 8, [], RATES)
    assert larger.frame_s == pytest.approx(4 * found.frame_s)


def test_training_that_was_not_measured_has_no_estimate() -> None:
    with pytest.raises(FailedPrecondition, match="only with efficientnet_lite2"):
        estimate(spec(backbone="efficientnet_lite0"), [SQUARE] * 20, [], RATES)
    with pytest.raises(FailedPrecondition, match="only with size small"):
        estimate(efficientad(size="medium"), [SQUARE] * 20, [], RATES)
    with pytest.raises(FailedPrecondition, match="another start"):
        estimate(efficientad(start="random", max_steps=10), [SQUARE] * 20, [], RATES)
    unmeasured = RATES.model_copy(update={"patchcore": None, "efficientad": None})
    for training in (spec(), efficientad()):
        with pytest.raises(FailedPrecondition, match="was measured without"):
            estimate(training, [SQUARE] * 20, [], unmeasured)


def test_settings_that_do_not_fit_the_images_are_rejected() -> None:
    with pytest.raises(InvalidRequest, match="must be 1 px to 320 px"):
        estimate(spec(smallest_defect=1_000), [SQUARE] * 20, [], RATES)


def test_estimate_is_that_of_the_slowest_worker() -> None:
    slower = RATES.model_copy(
        update={"patchcore": PATCHCORE.model_copy(update={"features_s": 1e-3}), "device": "cuda"}
    )
    speeds = [WorkerSpeed("a:1", RATES), WorkerSpeed("b:2", slower)]
    speed, found = slowest(spec(), [SQUARE] * 20, [], speeds, {})
    assert speed.worker == "b:2"
    assert found == estimate(spec(), [SQUARE] * 20, [], slower)


def test_speeds_are_those_of_workers_that_train() -> None:
    embedding = worker("b:2", RATES, queues=("embed",))
    assert speeds_of([worker("a:1", RATES, RATES), embedding]) == [WorkerSpeed("a:1", RATES)] * 2
    with pytest.raises(FailedPrecondition, match="no worker that trains is running"):
        speeds_of([embedding])
    with pytest.raises(FailedPrecondition, match="has measured its speed yet"):
        speeds_of([worker("a:1")])
