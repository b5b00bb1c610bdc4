# SPDX-License-Identifier: Apache-2.0

import torch
from torch import Tensor

from blemish_core.detectors.common.embedding import whitening_of
from blemish_core.detectors.patchcore.training.whitening import PatchChanges, Whitening

NONE = torch.empty(0, 6)


def features() -> Tensor:
    """Return (4, 500, 6) features with variances that decrease from direction to direction."""
    random = torch.Generator().manual_seed(3)
    return torch.randn(4, 500, 6, generator=random) / torch.arange(1, 7) + 5


def fitted(anomalous: Tensor = NONE, harmless: Tensor = NONE) -> Whitening:
    """Return a whitening fitted to changes, a quarter of them from each image."""
    quarters = zip(anomalous.chunk(4) * 4, harmless.chunk(4) * 4, strict=False)
    return Whitening.fit(features(), [PatchChanges(*next(quarters)) for _ in range(4)])


def spans(whitening: Whitening) -> Tensor:
    """Return the standard deviation of whitened features in each direction, (6,)."""
    mapped = features()
    whitening.apply(mapped, out=mapped)
    torch.testing.assert_close(mapped.mean((0, 1)), torch.zeros(6), atol=1e-4, rtol=0)
    return mapped.flatten(0, 1).std(0)


def along(direction: int) -> Tensor:
    """Return changes (80, 6) of various lengths in one direction, with some noise."""
    changes = torch.randn(80, 6, generator=torch.Generator().manual_seed(4)) * 0.01
    changes[:, direction] += torch.linspace(0.1, 2, 80)
    return changes


def test_whitening_without_changes_is_plain() -> None:
    plain = whitening_of(torch.cov(features().flatten(0, 1).double().T), 0.5)
    torch.testing.assert_close(fitted().matrix, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fitted().leveling, torch.eye(6), atol=1e-4, rtol=0)


def test_unchanged_copies_do_not_affect_the_whitening() -> None:
    still = torch.zeros(8, 6)
    torch.testing.assert_close(fitted(still, still).matrix, fitted().matrix)


def test_directions_of_anomalous_changes_count_more() -> None:
    for direction in range(6):
        ratio = spans(fitted(anomalous=along(direction))) / spans(fitted())
        others = torch.arange(6) != direction
        assert ratio[direction] > 1.2
        assert (ratio[others] < 0.8).all()


def test_directions_of_harmless_changes_count_less() -> None:
    for direction in range(6):
        ratio = spans(fitted(harmless=along(direction))) / spans(fitted())
        others = torch.arange(6) != direction
        assert ratio[direction] < 0.9 * ratio[others].min()


def test_size_matters_for_harmless_changes_only() -> None:
    few = along(2)
    torch.testing.assert_close(fitted(few).matrix, fitted(100 * few).matrix)
    weak, strong = (spans(fitted(harmless=share * few)) for share in (0.1, 10))
    assert strong[2] / strong[0] < 0.5 * weak[2] / weak[0]


def test_matrix_is_symmetric_and_leveling_restores_plain_whitening() -> None:
    random = torch.Generator().manual_seed(5)
    anomalous, harmless = (
        torch.randn(120, 6, generator=random) @ torch.randn(6, 6, generator=random) for _ in range(2)
    )
    whitening = fitted(anomalous, harmless)
    assert not torch.allclose(whitening.leveling, torch.eye(6), atol=0.05)
    torch.testing.assert_close(whitening.matrix, whitening.matrix.T, atol=1e-5, rtol=1e-4)
    leveled = whitening.matrix @ whitening.leveling
    torch.testing.assert_close(leveled, fitted().matrix, atol=1e-4, rtol=1e-3)
