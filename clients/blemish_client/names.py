# SPDX-License-Identifier: Apache-2.0
"""Short names made whole: ``tile`` is ``datasets/tile``, ``m/3`` is ``models/m/versions/3``."""

import re


def dataset_name(name: str) -> str:
    return _below("datasets", name)


def job_name(name: str) -> str:
    return _below("jobs", name)


def item_name(name: str) -> str:
    return _below("items", name)


def model_name(name: str) -> str:
    """Read ``m``, ``m@production``, ``m/3`` or any of them in full.

    A name that is none of these is left for the server to refuse.
    """
    whole = _below("models", name)
    return re.sub(r"^(models/[^/@]+)/([0-9]+)$", r"\1/versions/\2", whole)


def short(name: str) -> str:
    """Return how a person would write ``name``: ``m/3`` for ``models/m/versions/3``."""
    return re.sub(r"^(datasets|jobs|items|models)/", "", name).replace("/versions/", "/")


def _below(kind: str, name: str) -> str:
    return name if name.startswith(f"{kind}/") else f"{kind}/{name}"
