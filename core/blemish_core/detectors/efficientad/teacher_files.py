# SPDX-License-Identifier: Apache-2.0
"""The files of EfficientAD's teachers, which ``teacher`` reads: a server checks them without torch."""

from pathlib import Path

from blemish_core.platform.errors import FailedPrecondition

SHIPPED = Path(__file__).parent / "teachers"


def weights_name(size: str) -> str:
    """Return the name of a teacher's weights in the store and for `blemish weights import`."""
    return f"efficientad-{size}"


def shipped(size: str) -> Path:
    """Return the file of the teacher that is part of the package; not every size has one."""
    return SHIPPED / f"pdn_{size}.safetensors"


def require(size: str, weights: Path) -> None:
    """Validate that there is a teacher for ``size``, without reading it.

    Raises:
        FailedPrecondition: if there is none; the message names the commands that install one.
    """
    if not (weights / f"{weights_name(size)}.safetensors").exists() and not shipped(size).exists():
        raise not_installed(size)


def not_installed(size: str) -> FailedPrecondition:
    """Return the error for a size without a teacher."""
    return FailedPrecondition(
        f"no teacher for EfficientAD {size} is installed; fetch the official one with `blemish weights "
        f"fetch efficientad`, import one with `blemish weights import {weights_name(size)} FILE`, or train "
        "size small, whose teacher is part of blemish"
    )
