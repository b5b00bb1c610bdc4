# SPDX-License-Identifier: Apache-2.0

import torch

from blemish_core.detectors.embedding import embeddings

GOOD_SCORES = torch.tensor([1.0, 0.1])


def embedded(features: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    return embeddings(features, center, torch.full((len(features),), 1.05), GOOD_SCORES)


def test_what_lies_on_the_center_has_no_direction_but_that_of_its_score() -> None:
    generator = torch.Generator().manual_seed(1)
    center = torch.randn(64, generator=generator)
    # Copies of one image, as several runtimes round them.
    copies = center * (1 + 1e-6 * torch.randn(20, 64, generator=generator))
    told = embedded(copies, center)
    assert (told - told[0]).norm(dim=1).max() < 1e-3
    torch.testing.assert_close(told.norm(dim=1), torch.ones(20))


def test_what_lies_away_from_the_center_is_told_by_its_direction_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    center = torch.randn(64, generator=generator)
    away = torch.randn(5, 64, generator=generator)
    near, far = (embedded(center + far * away, center) for far in (0.1, 10.0))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)
