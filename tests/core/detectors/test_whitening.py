# SPDX-License-Identifier: Apache-2.0

import torch
from torch import Tensor

from blemish_core.detectors.embedding import whitening_of
from blemish_core.detectors.whitening import Whitening

NONE = [torch.empty(0, 6)] * 4


def features() -> Tensor:
    """(4, 500, 6), that vary by 1 in the first direction and by less and less in the others."""
    random = torch.Generator().manual_seed(3)
    return torch.randn(4, 500, 6, generator=random) / torch.arange(1, 7) + 5


def spans(whitening: Whitening) -> Tensor:
    """By how much features vary in each direction after it, (6,)."""
    mapped = features()
    whitening.apply(mapped, out=mapped)
    torch.testing.assert_close(mapped.mean((0, 1)), torch.zeros(6), atol=1e-4, rtol=0)
    return mapped.flatten(0, 1).std(0)


def along(direction: int) -> list[Tensor]:
    """Changes of all lengths in one direction, with some noise."""
    random = torch.Generator().manual_seed(4)
    changes = [torch.randn(20, 6, generator=random) * 0.01 for _ in range(4)]
    for each in changes:
        each[:, direction] += torch.linspace(0.1, 5, 20)
    return changes


def test_without_changes_it_is_plain() -> None:
    whitening = Whitening.of(features(), NONE)
    plain = whitening_of(torch.cov(features().flatten(0, 1).double().T), 0.5)
    torch.testing.assert_close(whitening.matrix, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whitening.levelling, torch.eye(6), atol=1e-4, rtol=0)


def test_an_image_that_does_not_change_says_nothing() -> None:
    still = Whitening.of(features(), [torch.zeros(3, 6)] * 4)
    torch.testing.assert_close(still.matrix, Whitening.of(features(), NONE).matrix)


def test_directions_in_which_patches_are_altered_count_more() -> None:
    plain = spans(Whitening.of(features(), NONE))
    for direction in range(6):
        ratio = spans(Whitening.of(features(), along(direction))) / plain
        others = torch.arange(6) != direction
        assert ratio[direction] > 1.2
        assert (ratio[others] < 0.8).all()


def test_it_is_symmetric_and_levelled_is_plain() -> None:
    random = torch.Generator().manual_seed(5)
    changes = [torch.randn(30, 6, generator=random) @ torch.randn(6, 6, generator=random) for _ in range(4)]
    whitening = Whitening.of(features(), changes)
    assert not torch.allclose(whitening.levelling, torch.eye(6), atol=0.05)
    torch.testing.assert_close(whitening.matrix, whitening.matrix.T, atol=1e-5, rtol=1e-4)
    plain = Whitening.of(features(), NONE)
    torch.testing.assert_close(whitening.matrix @ whitening.levelling, plain.matrix, atol=1e-4, rtol=1e-3)


def test_what_changes_by_how_much_does_not_matter() -> None:
    few, many = along(2), [100 * each for each in along(2)]
    torch.testing.assert_close(Whitening.of(features(), few).matrix, Whitening.of(features(), many).matrix)
