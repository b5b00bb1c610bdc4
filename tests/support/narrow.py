# SPDX-License-Identifier: Apache-2.0
"""EfficientAD's networks at an eighth of their width, for tests that hold for any width.

A step of the real ones takes seconds on two cores. The contract suite holds those to anomalib.
"""

from typing import Any

import pytest
from torch import nn

_NARROWER = 8


def narrow(monkeypatch: pytest.MonkeyPatch, network: type[nn.Module]) -> None:
    """Make anomalib's patch description network with an eighth of the channels between layers.

    It keeps the layers, what it takes and what it answers.
    """
    made_wide: Any = network.__init__

    def made_narrow(self: nn.Module, out_channels: int, padding: bool = False) -> None:
        made_wide(self, out_channels, padding)
        given = 3
        for name, layer in list(self.named_children()):
            if isinstance(layer, nn.Conv2d):
                wide = layer.out_channels
                made = wide if wide == out_channels else wide // _NARROWER
                sizes: Any = (layer.kernel_size, layer.stride, layer.padding)
                setattr(self, name, nn.Conv2d(given, made, *sizes))
                given = made

    monkeypatch.setattr(network, "__init__", made_narrow)
