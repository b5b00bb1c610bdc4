# SPDX-License-Identifier: Apache-2.0
"""Networks in two stages: what every model of a kind shares, and what one surface adds to it."""

from torch import Tensor, nn


class Staged(nn.Module):
    """Images (B, 3, S, S) to features (B, D, rows, columns), each patch then mapped as a surface wants it.

    The first stage is the same for every surface, and converting it for another runtime takes seconds.
    """

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared
        self.own: nn.Conv2d | None = None
        """A convolution of one patch."""

    def map(self, matrix: Tensor, shift: Tensor) -> None:
        """Have features (D,) of each patch be what they were times a symmetric (D, D), plus ``shift``."""
        convolution = nn.Conv2d(len(shift), len(shift), kernel_size=1)
        convolution.weight.data.copy_(matrix[:, :, None, None])
        assert convolution.bias is not None
        convolution.bias.data.copy_(shift)
        self.own = convolution.eval()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return features (B, D, rows, columns)."""
        features: Tensor = self.shared(images)
        return (features if self.own is None else self.own(features),)
