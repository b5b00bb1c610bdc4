# SPDX-License-Identifier: Apache-2.0

import hashlib
import os
import threading
from pathlib import Path

import pytest
from tests.support.manifests import make_manifest

from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.models.loading import load_detector
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import Corrupt, FailedPrecondition, JobCancelled, NotFound
from blemish_core.platform.names import ModelRef


def publish(store: ModelStore, model: str, job: str) -> Manifest:
    return store.publish(
        model, job, lambda folder, number: bundle.write_manifest(make_manifest(model, number, job), folder)
    )


def test_versions_count_up_with_one_per_job(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    assert publish(store, "tile", "a").version == 1
    assert publish(store, "tile", "b").version == 2
    assert publish(store, "tile", "a").version == 1
    assert [found.version for found in store.get("tile").versions] == [2, 1]


def test_references_resolve_to_versions(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with pytest.raises(NotFound, match="no model 'tile'"):
        store.resolve(ModelRef("tile"))
    publish(store, "tile", "a")
    publish(store, "tile", "b")
    assert store.resolve(ModelRef("tile")) == ModelRef("tile", 2)
    with pytest.raises(NotFound, match="promote one with `blemish models promote tile/2`"):
        store.resolve(ModelRef("tile", alias="production"))
    store.promote(ModelRef("tile", 1))
    assert store.resolve(ModelRef("tile")) == ModelRef("tile", 1)
    assert store.resolve(ModelRef("tile", alias="production")) == ModelRef("tile", 1)
    assert store.resolve(ModelRef("tile", alias="latest")) == ModelRef("tile", 2)
    with pytest.raises(NotFound, match="no version 9"):
        store.promote(ModelRef("tile", 9))
    assert store.production("tile") == 1


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)

    def fail(folder: Path, number: int) -> None:
        (folder / "weights.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.publish("tile", "a", fail)
    assert list((tmp_path / "tile").iterdir()) == []
    assert store.page() == []


def test_concurrent_publishers_get_different_numbers(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    both = threading.Barrier(2)

    def run(job: str) -> None:
        def write(folder: Path, number: int) -> None:
            if number == 1:
                both.wait(timeout=10)
            bundle.write_manifest(make_manifest("tile", number, job), folder)

        store.publish("tile", job, write)

    threads = [threading.Thread(target=run, args=(job,)) for job in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = store.get("tile").versions
    assert [found.version for found in versions] == [2, 1]
    assert {found.job for found in versions} == {"a", "b"}


def test_models_are_listed_in_pages(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    for model in ("tile", "grid", "leather"):
        publish(store, model, model)
    assert [model.id for model in store.page(limit=2)] == ["grid", "leather"]
    assert [model.id for model in store.page(after="leather")] == ["tile"]


def test_changed_bundle_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"changed")
    original = make_manifest("tile", 1, "a").model_copy(
        update={"sha256": {"weights.safetensors": "0" * 64}}
    )
    bundle.write_manifest(original, tmp_path)
    with pytest.raises(Corrupt, match=r"weights\.safetensors is not the file that was written"):
        load_detector(tmp_path, "cpu")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(Corrupt, match="is not a manifest"):
        bundle.read_manifest(tmp_path)


def test_all_files_of_a_bundle_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ModelStore(tmp_path)
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(Path(f"/proc/self/fd/{fd}").readlink().name))

    def write(folder: Path, number: int) -> None:
        (folder / "report").mkdir()
        (folder / "report" / "report.html").write_text("page")
        bundle.write_manifest(make_manifest("tile", number, "a"), folder)

    store.publish("tile", "a", write)
    assert {"report.html", "report", "manifest.json"} <= set(flushed)


def test_evaluation_is_stored_once_per_job(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, "tile", "a")
    version = ModelRef("tile", 1)
    for text in ("first", "again"):
        store.add_evaluation(version, "judge", lambda folder: write_page(folder, text))  # noqa: B023
    assert store.report(ModelRef("tile"), "judge").read_text() == "first"
    assert [each.name for each in (tmp_path / "tile" / "1" / "evaluations").iterdir()] == ["judge"]

    def fail(folder: Path) -> None:
        write_page(folder, "half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.add_evaluation(version, "another", fail)
    assert [each.name for each in (tmp_path / "tile" / "1" / "evaluations").iterdir()] == ["judge"]


def write_page(folder: Path, text: str) -> None:
    (folder / "report.html").write_text(text)


def test_error_for_a_missing_report_names_the_available_ones(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, "tile", "a")
    version = ModelRef("tile", 1)
    with pytest.raises(NotFound, match=r"no report of its training.*create one with `blemish evaluate`"):
        store.report(version)
    store.add_evaluation(version, "judge", lambda folder: write_page(folder, "page"))
    with pytest.raises(NotFound, match="by jobs/nonesuch; choose jobs/judge"):
        store.report(version, "nonesuch")
    with pytest.raises(NotFound, match="no version 7"):
        store.report(ModelRef("tile", 7), "judge")


def test_two_attempts_of_a_job_publish_one_version(tmp_path: Path) -> None:
    """The slower attempt writes while the faster one publishes the same number."""
    store = ModelStore(tmp_path)

    def faster(folder: Path, number: int) -> None:
        bundle.write_manifest(make_manifest("tile", number, "a"), folder)

    def slower(folder: Path, number: int) -> None:
        store.publish("tile", "a", faster)
        bundle.write_manifest(make_manifest("tile", number, "a"), folder)

    assert store.publish("tile", "a", slower).version == 1
    assert [version.version for version in store.get("tile").versions] == [1]


def test_failed_commit_publishes_no_version(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)

    def write(folder: Path, number: int) -> None:
        bundle.write_manifest(make_manifest("tile", number, "a"), folder)

    def refuse() -> None:
        raise JobCancelled("jobs/a was cancelled")

    with pytest.raises(JobCancelled):
        store.publish("tile", "a", write, refuse)
    assert list((tmp_path / "tile").iterdir()) == []


def test_staged_folders_of_a_killed_job_are_discarded(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    version = ModelRef("tile", publish(store, "tile", "a").version)
    for home in (tmp_path / "tile", tmp_path / "tile" / "1" / "evaluations"):
        for job in ("b", "c"):
            (home / f".staging-{job}-0").mkdir(parents=True)
    assert {job: len(folders) for job, folders in store.staged_folders().items()} == {"b": 2, "c": 2}
    store.discard("b")
    assert set(store.staged_folders()) == {"c"}
    assert store.resolve(version) == version


def test_old_versions_expire_unless_pinned_or_in_production(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    for job in "abcdef":
        publish(store, "tile", job)
    store.promote(ModelRef("tile", 2))
    store.pin(ModelRef("tile", 3), True)
    assert [ref.version for ref in store.beyond_retention(2)] == [4, 1]
    store.pin(ModelRef("tile", 3), False)
    assert [ref.version for ref in store.beyond_retention(2)] == [4, 3, 1]
    store.delete(ModelRef("tile", 1))
    with pytest.raises(NotFound, match="no version 1"):
        store.resolve(ModelRef("tile", 1))
    assert not list((tmp_path / "tile").glob(".deleted*"))
    assert store.beyond_retention(9) == []


def test_version_numbers_are_never_reused(tmp_path: Path) -> None:
    """Caches and indexes identify versions by their numbers."""
    store = ModelStore(tmp_path)
    for job in "abc":
        publish(store, "tile", job)
    store.delete(ModelRef("tile", 3))
    store.delete(ModelRef("tile", 1))
    assert store.numbers("tile") == [2]
    assert publish(ModelStore(tmp_path), "tile", "d").version == 4
    for number in (4, 2):
        store.delete(ModelRef("tile", number))
    assert (store.page(), store.in_production()) == ([], [])
    with pytest.raises(NotFound, match="no model 'tile'"):
        store.resolve(ModelRef("tile"))
    assert publish(store, "tile", "e").version == 5


def test_leftovers_of_a_killed_removal_go_with_the_next(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    for job in "ab":
        publish(store, "tile", job)
    (tmp_path / "tile" / ".deleted-7-x" / "report").mkdir(parents=True)
    store.delete(ModelRef("tile", 1))
    assert not list((tmp_path / "tile").glob(".deleted*"))


def test_shadow_stays_until_promoted_or_deleted(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    versions = [ModelRef("tile", publish(store, "tile", job).version) for job in "abcd"]
    with pytest.raises(FailedPrecondition, match="promote one first"):
        store.set_shadow(versions[1], True)
    store.promote(versions[0])
    with pytest.raises(FailedPrecondition, match="is in production itself"):
        store.set_shadow(versions[0], True)
    store.set_shadow(versions[1], True)
    assert (store.shadow("tile"), store.get("tile").shadow, store.shadows()) == (2, 2, [versions[1]])
    assert [ref.version for ref in store.beyond_retention(1)] == [3]
    store.promote(versions[2])
    assert store.shadow("tile") == 2, "another one was promoted"
    store.set_shadow(versions[0], False)
    assert store.shadow("tile") == 2, "it was not the shadow"
    store.promote(versions[1])
    store.promote(versions[0])
    assert (store.shadow("tile"), store.shadows()) == (None, []), "a promotion ended it"
    store.set_shadow(versions[3], True)
    store.delete(versions[3])
    assert store.shadow("tile") is None
    store.set_shadow(versions[2], True)
    store.set_shadow(versions[2], False)
    assert store.shadow("tile") is None
    store.set_shadow(versions[2], True)
    store.retire("tile")
    store.promote(versions[0])
    assert store.shadow("tile") is None


def test_mask_is_kept_until_no_training_needs_it(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    names = {png: hashlib.sha256(png).hexdigest() for png in (b"one", b"two")}
    for png, sha256 in names.items():
        store.keep_mask(png, sha256)
        assert store.mask(sha256) == png
    assert store.page() == []
    assert store.discard_masks({names[b"one"]}, min_age_s=60) == []
    assert store.discard_masks({names[b"one"]}, min_age_s=-60) == [names[b"two"]]
    assert store.mask(names[b"one"]) == b"one"
    with pytest.raises(NotFound, match="start the training again"):
        store.mask(names[b"two"])


def test_mask_of_a_version_is_read_from_its_bundle_and_checked(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    sha256 = hashlib.sha256(b"mask").hexdigest()
    summary = MaskSummary(sha256=sha256, width=4, height=4, ignored_share=0.5)
    manifest = publish(store, "tile", "a").model_copy(update={"mask": summary})
    file = store.folder("tile", 1) / bundle.MASK
    with pytest.raises(NotFound):
        store.mask_of(manifest)
    file.write_bytes(b"mask")
    assert store.mask_of(manifest) == b"mask"
    file.write_bytes(b"other")
    with pytest.raises(Corrupt):
        store.mask_of(manifest)


def test_changed_mask_is_not_used(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    sha256 = hashlib.sha256(b"mask").hexdigest()
    store.keep_mask(b"other", sha256)
    with pytest.raises(Corrupt, match="was changed"):
        store.mask(sha256)
