# SPDX-License-Identifier: Apache-2.0
"""Types of stored values that come from other machines, limited to what the contract can represent."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

Count = Annotated[int, Field(ge=0, lt=1 << 31)]
"""A number of things."""

Milliseconds = Annotated[float, Field(ge=0, le=1e12)]
"""A duration of up to 30 years."""


def _in_utc(time: datetime) -> datetime:
    """Check that a time exists in UTC; a time without a zone is in UTC already."""
    try:
        _ = time.astimezone(UTC) if time.tzinfo is not None else time
    except OverflowError as error:
        raise ValueError("the time is outside of the years 1 to 9999 in UTC") from error
    return time


Time = Annotated[datetime, AfterValidator(_in_utc)]
"""A time in the years 1 to 9999."""
