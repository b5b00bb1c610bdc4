# SPDX-License-Identifier: Apache-2.0
"""The classes of anomalib that detectors use, imported without its warnings.

Importing one model of anomalib imports all of them, with lightning, torchmetrics, torchvision and
matplotlib, which takes seconds. So import this module inside the functions that build a network.
"""

import warnings

from blemish_core.platform.gc_tuning import gc_paused

with warnings.catch_warnings(), gc_paused():
    # anomalib 2.7 imports deprecated paths of timm and its own.
    warnings.simplefilter("ignore", FutureWarning)
    from anomalib.models.image.efficient_ad.torch_model import (
        EfficientAdModel,
        EfficientAdModelSize,
        MediumPatchDescriptionNetwork,
        SmallPatchDescriptionNetwork,
    )
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

__all__ = [
    "EfficientAdModel",
    "EfficientAdModelSize",
    "MediumPatchDescriptionNetwork",
    "PatchcoreModel",
    "SmallPatchDescriptionNetwork",
]
