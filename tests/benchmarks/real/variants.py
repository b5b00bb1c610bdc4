# SPDX-License-Identifier: Apache-2.0
"""The compared variants of detectors. Edit this table when settings are added or removed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.real.anomalib_reference import ANOMALIB

from blemish_core.detectors.registry import ALGORITHMS, Algorithm

PATCHCORE, EFFICIENTAD = ALGORITHMS["patchcore"], ALGORITHMS["efficientad"]


@dataclass(frozen=True)
class Variant:
    """A detector with settings that differ from its defaults."""

    name: str
    algorithm: Algorithm = PATCHCORE
    settings: Mapping[str, Any] = field(default_factory=dict)


BASELINE = "paper"
"""Variant that all others are compared with: PatchCore as published, on this product's backbone."""

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(BASELINE, settings={"whitened": False}),
        Variant("default"),
        Variant("fine", settings={"whitened": False, "fine": True}),
        Variant("whitened", settings={"whitened": True, "fine": False}),
        Variant("lite2", settings={"whitened": False, "backbone": "efficientnet_lite2"}),
        Variant("320 px", settings={"whitened": False, "input_size": 320}),
        Variant("anomalib", ANOMALIB, {"whitened": False}),
        Variant("efficientad 90 s", EFFICIENTAD, {"max_seconds": 90.0}),
    )
}
