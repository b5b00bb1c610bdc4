# SPDX-License-Identifier: Apache-2.0
"""Keyword options of calls."""

from collections.abc import Mapping


def reject_unknown(options: Mapping[str, object], known: frozenset[str]) -> None:
    """Raise a TypeError for an option that does not exist, as a call with explicit parameters does."""
    if unknown := sorted(options.keys() - known):
        raise TypeError(
            f"unexpected keyword argument {unknown[0]!r}; use one of {', '.join(sorted(known))}"
        )
