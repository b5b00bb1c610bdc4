# SPDX-License-Identifier: Apache-2.0
"""Files of a bundle that are read whenever it is loaded, by any runtime."""

from pathlib import Path

from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.platform.errors import Corrupt, InvalidImage


def read_checked(folder: Path) -> Manifest:
    """Return the manifest, after checking all files that a detector is loaded from against it.

    Raises:
        FileNotFoundError: if there is no bundle.
        Corrupt: if a file is missing or was changed, or the detector is unknown.
    """
    manifest = bundle.read_manifest(folder)
    for name, expected in manifest.sha256.items():
        if name.startswith(f"{bundle.REPORT}/"):
            continue  # never loaded
        if not (folder / name).is_file() or bundle.sha256(folder / name) != expected:
            raise Corrupt(f"{manifest.name}: {name} is not the file that was written; train again")
    if manifest.detector not in ALGORITHMS:
        raise Corrupt(f"{manifest.name} needs the detector {manifest.detector!r}; update blemish")
    return manifest


def read_mask(folder: Path, manifest: Manifest) -> FrameMask | None:
    """Return the mask of a bundle, with its reference; None if it has none.

    Raises:
        Corrupt: if a file of it cannot be read, or does not fit the manifest.
    """
    if manifest.mask is None:
        return None
    try:
        mask = FrameMask.from_png((folder / bundle.MASK).read_bytes())
    except (FileNotFoundError, InvalidImage) as error:
        raise Corrupt(f"{manifest.name}: {bundle.MASK} cannot be read; train again") from error
    if mask.shape != (manifest.mask.height, manifest.mask.width):
        raise Corrupt(f"{manifest.name}: {bundle.MASK} has another size than its manifest; train again")
    if manifest.mask.reference is None:
        return mask
    try:
        return mask.with_reference((folder / bundle.REFERENCE).read_bytes())
    except (FileNotFoundError, InvalidImage) as error:
        raise Corrupt(f"{manifest.name}: {bundle.REFERENCE} cannot be read; train again") from error
