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
"""Variant that all others are compared with: PatchCore as published, at our geometry and backbone."""

_PAPER = {"whitened": False}
_LITE0 = {"backbone": "efficientnet_lite0"}

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(BASELINE, settings=_PAPER),
        Variant("default"),
        Variant("paper, Lite0, 256 px", settings=_PAPER | _LITE0 | {"input_size": 256}),
        Variant("default, one neighbour", settings={"neighbors": 1}),
        Variant("default, Lite0", settings=_LITE0),
        Variant("default, 256 px", settings={"input_size": 256}),
        Variant("default, 448 px", settings={"input_size": 448}),
        Variant("anomalib", ANOMALIB, _PAPER),
        Variant("efficientad 90 s", EFFICIENTAD, {"max_seconds": 90.0}),
    )
}
