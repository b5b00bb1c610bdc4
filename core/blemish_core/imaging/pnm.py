# SPDX-License-Identifier: Apache-2.0
"""Reading of PGM and PPM files, binary (P5, P6) and plain (P2, P3), with up to 16 bits.

Source: the pgm and ppm pages of Netpbm. The highest value in the header, maxval, is white.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.samples import Samples, eight_bits
from blemish_core.imaging.white_level import FULL
from blemish_core.platform.errors import InvalidImage

MAGIC = rb"P[2356][\s#]"
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(
    rb"P([2356])%(gap)s(\d{1,9})%(gap)s(\d{1,9})%(gap)s(\d{1,9})(?:#[^\r\n]*)?\s" % {b"gap": _GAP}
)
_LONGEST_HEADER = 1 << 16


@dataclass(frozen=True)
class PnmHeader:
    """The header of a file."""

    width: int
    height: int
    channels: int
    maxval: int
    is_plain: bool
    start: int
    """Position of the first sample in the file."""

    @property
    def size_bytes(self) -> int:
        """Size of the samples of a binary file, in bytes."""
        return self.width * self.height * self.channels * (2 if self.maxval > 255 else 1)


def read_header(data: bytes) -> PnmHeader:
    """Return the header of a file that begins with ``MAGIC``.

    Raises:
        InvalidImage: if the header is malformed.
    """
    found = _HEADER.match(data[:_LONGEST_HEADER])
    if found is None:
        raise _invalid("the header of the PGM or PPM is malformed; send the whole file, or save it again")
    kind, width, height, maxval = (int(number) for number in found.groups())
    if not 1 <= maxval <= FULL:
        raise _invalid(f"the PGM or PPM has a white of {maxval}, but 1 to {FULL} is allowed; save it again")
    return PnmHeader(width, height, 3 if kind in (3, 6) else 1, maxval, kind in (2, 3), found.end())


def check_complete(data: bytes, header: PnmHeader) -> None:
    """Raise InvalidImage if samples of a binary file are missing."""
    left = len(data) - header.start
    if not header.is_plain and left < header.size_bytes:
        raise _invalid(
            f"the PGM or PPM is truncated: {header.width} x {header.height} px take {header.size_bytes} "
            f"bytes after the header, but it has {left}; send the whole file"
        )


def read_samples(data: bytes, header: PnmHeader) -> Samples:
    """Return the samples of a file, whose size was checked.

    Raises:
        InvalidImage: if samples are missing or above white.
    """
    shape = (header.height, header.width, 3) if header.channels == 3 else (header.height, header.width)
    values = _plain(data, header) if header.is_plain else _binary(data, header)
    values = values.reshape(shape)
    if (highest := int(values.max())) > header.maxval:
        raise _invalid(
            f"a sample is {highest}, but the PGM or PPM has a white of {header.maxval}; save it again"
        )
    if header.maxval > 255:
        return Samples(values.astype(np.uint16), header.maxval)
    return Samples(np.array(eight_bits(values.astype(np.uint8), header.maxval)))


def _binary(data: bytes, header: PnmHeader) -> NDArray[np.generic]:
    sample = np.dtype(">u2" if header.maxval > 255 else np.uint8)
    count = header.width * header.height * header.channels
    return np.frombuffer(data, sample, count, header.start)


def _plain(data: bytes, header: PnmHeader) -> NDArray[np.generic]:
    count = header.width * header.height * header.channels
    try:
        # Not limited to ``count``: NumPy would return memory without content for samples that are missing.
        values = np.fromstring(data[header.start :], np.int32, sep=" ")
    except ValueError as error:
        raise _invalid("the plain PGM or PPM has other text than numbers; save it again") from error
    if len(values) < count or int(values[:count].min()) < 0:
        raise _invalid(f"the plain PGM or PPM has {len(values)} of {count} samples; send the whole file")
    return values[:count]


def _invalid(reason: str) -> InvalidImage:
    return InvalidImage(reason, field="image")
