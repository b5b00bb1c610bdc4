# SPDX-License-Identifier: Apache-2.0

import torch

from blemish_core.detectors.common.embedding import (
    FarPatches,
    directions,
    embeddings,
    fit_directions,
    pooled,
    score_scale,
    sides,
    take_score_scale,
    temperature,
    whitening,
)

SCALE = score_scale(torch.tensor([0.9, 1.0, 1.1]))


def embedded(features: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    plain = torch.eye(len(center))
    return embeddings(features, center, plain, torch.full((len(features),), 1.05), SCALE)


def test_embedding_at_the_center_depends_on_the_score_only() -> None:
    generator = torch.Generator().manual_seed(1)
    center = torch.randn(64, generator=generator)
    # Copies of one image as rounded by several runtimes.
    copies = center * (1 + 1e-6 * torch.randn(20, 64, generator=generator))
    reported = embedded(copies, center)
    assert (reported - reported[0]).norm(dim=1).max() < 1e-3
    torch.testing.assert_close(reported.norm(dim=1), torch.ones(20))


def test_embedding_away_from_the_center_depends_on_direction_only() -> None:
    generator = torch.Generator().manual_seed(2)
    center = torch.randn(64, generator=generator)
    away = torch.randn(5, 64, generator=generator)
    near, far = (embedded(center + far * away, center) for far in (0.1, 10.0))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)


def test_whitening_reduces_harmless_variation() -> None:
    """Two kinds of defect lie along two axes; brightness moves images much farther along a third."""
    generator = torch.Generator().manual_seed(3)
    light = torch.tensor([100.0, 1.0, 1.0, 1.0])
    good = torch.randn(5000, 4, generator=generator) * light
    crack, stain = torch.tensor([[0.0, 30.0, 0.0, 0.0], [0.0, 0.0, 30.0, 0.0]])
    lit = [kind + torch.tensor([sign * 100.0, 0, 0, 0]) for kind in (crack, stain) for sign in (-1, 1)]
    scores = torch.full((4,), 1.05)

    def likeness(by: torch.Tensor) -> torch.Tensor:
        reported = embeddings(torch.stack(lit), torch.zeros(4), by, scores, SCALE)
        return reported @ reported.T

    plain, whitened = likeness(torch.eye(4)), likeness(whitening(good))
    assert plain[0, 1] < plain[0, 2], "the same light, not the same defect"
    assert whitened[0, 1] > whitened[0, 2] + 0.1


def test_whitening_of_identical_patches_changes_no_direction() -> None:
    by = whitening(torch.ones(50, 6))
    assert by.isfinite().all()
    reported = torch.nn.functional.normalize(torch.arange(6.0) @ by, dim=0)
    torch.testing.assert_close(reported, torch.nn.functional.normalize(torch.arange(6.0), dim=0))


def test_pooling_selects_the_anomalous_patch() -> None:
    features = torch.eye(4)[None]
    anomaly = torch.tensor([[1.0, 1.0, 1.0, 9.0]])
    taken = pooled(features, anomaly, temperature(torch.tensor([0.0, 1.0, 2.0])))
    assert taken[0, 3] > 0.99


def test_sides_are_relative_to_deviations_of_good_scores() -> None:
    reported = sides(torch.tensor([0.85, 1.15, 1.45]), SCALE)
    torch.testing.assert_close(reported, torch.tensor([-1.5, 0.0, 1.5]).tanh())
    assert sides(torch.tensor([5.0, 7.0]), score_scale(torch.tensor([5.0]))).isfinite().all()


def test_older_versions_keep_their_score_scale() -> None:
    mean, deviation, scores = 1.0, 0.1, torch.tensor([0.9, 1.1, 1.2, 1.4])
    kept = {"good_scores": torch.tensor([mean, deviation]), "center": torch.zeros(2)}
    reported = sides(scores, take_score_scale(kept))
    torch.testing.assert_close(reported, ((scores - mean) / (2 * deviation) - 1).tanh())
    assert list(kept) == ["center"]
    assert torch.equal(take_score_scale({"score_scale": SCALE}), SCALE)


def test_stages_have_equal_shares_of_a_direction_whatever_their_size() -> None:
    deviations = torch.tensor([[3.0, 4.0, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0], [0.3, 0.4, 1.0, 0, 0, 0, 0, 0]])
    reported = directions(deviations, (2, 6))
    fine, coarse = reported[:, :2], reported[:, 2:]
    torch.testing.assert_close(fine.norm(dim=1), torch.full((2,), 0.5**0.5))
    torch.testing.assert_close(coarse.norm(dim=1), torch.full((2,), 0.5**0.5))
    torch.testing.assert_close(reported[0], reported[1])
    torch.testing.assert_close(directions(deviations)[0], deviations[0] / deviations[0].norm())


def test_direction_of_no_deviation_is_zero() -> None:
    assert not directions(torch.zeros(3, 8), (2, 6)).any()


def test_far_patches_are_the_most_anomalous_of_an_image() -> None:
    generator = torch.Generator().manual_seed(4)
    anomaly = torch.rand(4000, generator=generator)
    far = FarPatches.of(anomaly[:, None], anomaly)
    assert len(far.anomaly) == 200
    assert far.anomaly.min() >= anomaly.sort(descending=True).values[199]
    assert torch.equal(far.features[:, 0], far.anomaly)
    assert len(FarPatches.of(anomaly[:30, None], anomaly[:30]).anomaly) == 30


def good_images(generator: torch.Generator, scales: torch.Tensor) -> list[FarPatches]:
    """Return far patches of good images whose features vary by ``scales`` (D,) around 5."""
    return [
        FarPatches(
            5 + torch.randn(100, len(scales), generator=generator) * scales,
            torch.ones(100),
        )
        for _ in range(40)
    ]


def test_embeddings_ignore_the_variation_of_the_farthest_good_patches() -> None:
    generator = torch.Generator().manual_seed(5)
    scales = torch.tensor([1.0, 1.0, 50.0, 1.0, 1.0, 1.0])
    center, whitened = fit_directions(good_images(generator, scales), torch.ones(()), (3, 3))
    torch.testing.assert_close(center, torch.full((6,), 5.0), rtol=0, atol=3)
    defect = torch.tensor([20.0, 0, 0, 0, 0, 20.0])
    # The same defect, moved along the direction in which good patches vary.
    pair = torch.stack([defect, defect + torch.tensor([0, 0, 20.0, 0, 0, 0])])
    plain, mapped = directions(pair, (3, 3)), directions(pair @ whitened, (3, 3))
    assert mapped[0] @ mapped[1] > 0.95 > plain[0] @ plain[1]


def test_identical_good_images_give_finite_embeddings() -> None:
    same = [FarPatches(torch.ones(64, 6), torch.ones(64))] * 3
    center, whitened = fit_directions(same, torch.ones(()), (2, 4))
    features = torch.stack([torch.ones(6), torch.arange(6.0)])
    reported = embeddings(features, center, whitened, torch.full((2,), 1.05), SCALE, (2, 4))
    assert reported.isfinite().all()
    torch.testing.assert_close(reported.norm(dim=1), torch.ones(2))
