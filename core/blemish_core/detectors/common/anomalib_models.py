# SPDX-License-Identifier: Apache-2.0
"""The parts of anomalib that detectors are made of, imported in one place without its warnings.

To import any of anomalib's models is to import all of them, with lightning, torchmetrics, torchvision and
matplotlib: seconds. So this is imported where a detector is made, not where its module is imported.
"""

import warnings

from blemish_core.platform.gc_tuning import gc_paused

with warnings.catch_warnings(), gc_paused():
    # anomalib 2.7 imports timm's and its own former paths.
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
