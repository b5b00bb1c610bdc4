# SPDX-License-Identifier: Apache-2.0
"""Short and full resource names: ``tile`` and ``datasets/tile``, ``m/3`` and ``models/m/versions/3``."""

import re


def dataset_name(name: str) -> str:
    return _with_prefix("datasets", name)


def job_name(name: str) -> str:
    return _with_prefix("jobs", name)


def item_name(name: str) -> str:
    return _with_prefix("items", name)


def model_name(name: str) -> str:
    """Return the full name for ``m``, ``m@production``, ``m/3``, ``m/latest`` or a full name.

    Any other name is passed on for the server to reject.
    """
    full = _with_prefix("models", name)
    return re.sub(r"^(models/[^/@]+)/([0-9]+|latest)$", r"\1/versions/\2", full)


def short(name: str) -> str:
    """Return the short form of a name: ``m/3`` for ``models/m/versions/3``."""
    return re.sub(r"^(datasets|jobs|items|models)/", "", name).replace("/versions/", "/")


def _with_prefix(kind: str, name: str) -> str:
    return name if name.startswith(f"{kind}/") else f"{kind}/{name}"
