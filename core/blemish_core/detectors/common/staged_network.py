# SPDX-License-Identifier: Apache-2.0
"""Networks in two stages: a backbone that models share, and a projection learned from one surface."""

from torch import Tensor, nn


class StagedNetwork(nn.Module):
    """Images (B, 3, S, S) to features (B, D, rows, columns), each patch projected separately.

    Converting the shared stage for another runtime takes seconds, so runtimes may cache it.
    """

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared
        self.projection: nn.Conv2d | None = None
        """1 x 1 convolution; None for the identity."""

    def project(self, matrix: Tensor, shift: Tensor) -> None:
        """Multiply the features (D,) of each patch by a symmetric matrix (D, D) and add ``shift`` (D,)."""
        convolution = nn.Conv2d(len(shift), len(shift), kernel_size=1)
        convolution.weight.data.copy_(matrix[:, :, None, None])
        assert convolution.bias is not None
        convolution.bias.data.copy_(shift)
        self.projection = convolution.eval()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return features (B, D, rows, columns)."""
        features: Tensor = self.shared(images)
        return (features if self.projection is None else self.projection(features),)
