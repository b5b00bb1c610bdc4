# SPDX-License-Identifier: Apache-2.0

import torch

from blemish_core.detectors.common.embedding import (
    embeddings,
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
    reported = sides(torch.tensor([1.0, 1.3, 1.6]), SCALE)
    torch.testing.assert_close(reported, torch.tensor([-1.5, 0.0, 1.5]).tanh())
    assert sides(torch.tensor([5.0, 7.0]), score_scale(torch.tensor([5.0]))).isfinite().all()


def test_older_versions_keep_their_score_scale() -> None:
    mean, deviation, scores = 1.0, 0.1, torch.tensor([0.9, 1.1, 1.2, 1.4])
    kept = {"good_scores": torch.tensor([mean, deviation]), "center": torch.zeros(2)}
    reported = sides(scores, take_score_scale(kept))
    torch.testing.assert_close(reported, ((scores - mean) / (2 * deviation) - 1).tanh())
    assert list(kept) == ["center"]
    assert torch.equal(take_score_scale({"score_scale": SCALE}), SCALE)
