# SPDX-License-Identifier: Apache-2.0

import torch
from torch import Tensor

from blemish_core.detectors.common.embedding import whitening_of
from blemish_core.detectors.patchcore.training.whitening import PatchChanges, Whitening

NONE = torch.empty(0, 6)


def features() -> Tensor:
    """(4, 500, 6), that vary by 1 in the first direction and by less and less in the others."""
    random = torch.Generator().manual_seed(3)
    return torch.randn(4, 500, 6, generator=random) / torch.arange(1, 7) + 5


def fitted(anomalous: Tensor = NONE, harmless: Tensor = NONE) -> Whitening:
    """Fitted to changes of which each image has a quarter."""
    quarters = zip(anomalous.chunk(4) * 4, harmless.chunk(4) * 4, strict=False)
    return Whitening.fit(features(), [PatchChanges(*next(quarters)) for _ in range(4)])


def spans(whitening: Whitening) -> Tensor:
    """By how much features vary in each direction after it, (6,)."""
    mapped = features()
    whitening.apply(mapped, out=mapped)
    torch.testing.assert_close(mapped.mean((0, 1)), torch.zeros(6), atol=1e-4, rtol=0)
    return mapped.flatten(0, 1).std(0)


def along(direction: int) -> Tensor:
    """PatchChanges (80, 6) of all lengths in one direction, with some noise."""
    changes = torch.randn(80, 6, generator=torch.Generator().manual_seed(4)) * 0.01
    changes[:, direction] += torch.linspace(0.1, 2, 80)
    return changes


def test_without_changes_it_is_plain() -> None:
    plain = whitening_of(torch.cov(features().flatten(0, 1).double().T), 0.5)
    torch.testing.assert_close(fitted().matrix, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fitted().leveling, torch.eye(6), atol=1e-4, rtol=0)


def test_an_image_that_does_not_change_says_nothing() -> None:
    still = torch.zeros(8, 6)
    torch.testing.assert_close(fitted(still, still).matrix, fitted().matrix)


def test_directions_in_which_altered_spots_take_patches_count_more() -> None:
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


def test_how_large_an_altered_spot_shows_does_not_matter_but_how_large_a_harmless_change_is() -> None:
    few = along(2)
    torch.testing.assert_close(fitted(few).matrix, fitted(100 * few).matrix)
    weak, strong = (spans(fitted(harmless=share * few)) for share in (0.1, 10))
    assert strong[2] / strong[0] < 0.5 * weak[2] / weak[0]


def test_it_is_symmetric_and_levelled_is_plain() -> None:
    random = torch.Generator().manual_seed(5)
    anomalous, harmless = (
        torch.randn(120, 6, generator=random) @ torch.randn(6, 6, generator=random) for _ in range(2)
    )
    whitening = fitted(anomalous, harmless)
    assert not torch.allclose(whitening.leveling, torch.eye(6), atol=0.05)
    torch.testing.assert_close(whitening.matrix, whitening.matrix.T, atol=1e-5, rtol=1e-4)
    levelled = whitening.matrix @ whitening.leveling
    torch.testing.assert_close(levelled, fitted().matrix, atol=1e-4, rtol=1e-3)
