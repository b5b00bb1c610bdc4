# SPDX-License-Identifier: Apache-2.0
"""The place of a part in a frame, in text."""

from blemish.v1.inspection_pb2 import Inspection


def alignment_line(inspection: Inspection) -> str:
    """Return the motion of the part, an empty string if the frame was not aligned.

    For example ``part moved by +12.4, -3.0 px, turned by +0.8 degrees, correlation 0.97``.
    """
    if not inspection.HasField("alignment"):
        return ""
    part = inspection.alignment
    return (
        f"part moved by {part.dx:+.1f}, {part.dy:+.1f} px, turned by {part.angle:+.2f} degrees, "
        f"correlation {part.quality:.2f}"
    )
