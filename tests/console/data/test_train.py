# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish.v1.job_pb2 import EfficientAd, Job, JobEvent, PatchCore
from blemish_console.data import train


@pytest.mark.parametrize(("detector", "message"), [("patchcore", PatchCore), ("efficientad", EfficientAd)])
def test_every_setting_of_a_detector_is_listed_with_a_sentence(
    detector: str, message: type[PatchCore | EfficientAd]
) -> None:
    settings = train.settings(detector)
    assert [each.path for each in settings] == [
        f"{detector}.{field.name}" for field in message.DESCRIPTOR.fields
    ]
    assert all(each.description.endswith((".", "...")) for each in settings)


def test_description_has_the_range_and_the_default_of_the_contract() -> None:
    assert train.description("PatchCore", "neighbors") == (
        "The number of neighbours that weight the image score, 1 to 50. Defaults to 9."
    )


def test_description_leaves_out_status_codes() -> None:
    assert "INVALID_ARGUMENT" not in train.description("PatchCore", "smallest_defect")


def test_texts_become_settings_and_empty_ones_stay_unset() -> None:
    values = {
        "patchcore.coreset_ratio": "0,25",
        "patchcore.neighbors": " 3 ",
        "patchcore.whitened": "no",
        "patchcore.backbone": "",
        "efficientad.max_steps": "7",
    }
    assert train.parse_settings("patchcore", values) == PatchCore(
        coreset_ratio=0.25, neighbors=3, whitened=False
    )


def test_minutes_become_a_duration() -> None:
    settings = train.parse_settings("efficientad", {"efficientad.max_duration": "1.5"})
    assert isinstance(settings, EfficientAd)
    assert settings.max_duration.ToSeconds() == 90


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("neighbors", "three"),
        ("neighbors", "0"),
        ("neighbors", "99999999999"),
        ("coreset_ratio", "nan"),
        ("coreset_ratio", "0"),
        ("coreset_ratio", "much"),
    ],
)
def test_text_that_is_not_a_value_is_reported_with_its_setting(name: str, text: str) -> None:
    with pytest.raises(train.SettingError) as raised:
        train.parse_settings("patchcore", {f"patchcore.{name}": text})
    assert raised.value.path == f"patchcore.{name}"
    assert text in raised.value.message


def test_worker_is_the_one_of_the_latest_attempt() -> None:
    events = [JobEvent(worker=""), JobEvent(worker="a:1"), JobEvent(worker="b:2"), JobEvent(worker="")]
    assert train.worker_of(Job(history=events)) == "b:2"
    assert train.worker_of(Job()) == ""
