# SPDX-License-Identifier: Apache-2.0
"""Names of files and folders, and the safe names under which a dataset stores them."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Sequence

GOOD = "good"
GOOD_NAMES = frozenset({"good", "ok", "okay", "normal"})
"""Folder names of good images, in lower case."""
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"),
    *(".pgm", ".ppm", ".pnm", ".jp2", ".j2k"),
)
MAX_CLASS = 63
MAX_NAME = 128
MAX_ORIGINAL_BYTES = 4096
"""Length of the longest original path, in bytes of UTF-8."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# The end of every name that was made safe. A name that already ends so is made safe as well, so that two
# originals never share a name.
_DIGEST = re.compile(r"--[0-9a-f]{16}$")
_DIGEST_DIGITS = 16
# The rest of MAX_NAME holds the digest, the suffix of a mask and the extension.
_MAX_SLUG = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9._]+")
_MASK = re.compile(
    r"(?P<stem>.+?)(?P<suffix>[_.-](?:mask|gt|labels?|seg|segmentation|ground[_-]?truth)(?:[_-]\d{1,4})?)",
    re.IGNORECASE | re.DOTALL | re.ASCII,
)


def is_good(folder: str, more: Collection[str] = ()) -> bool:
    """Return whether a folder's name denotes good images.

    Args:
        folder: name of the folder.
        more: names or paths of folders that denote good images besides ``good``, ``ok``, ``okay`` and
            ``normal``.
    """
    name = _folded(folder)
    return name in GOOD_NAMES or name in {_folded(each.rstrip("/").rpartition("/")[2]) for each in more}


def is_class(text: str) -> bool:
    """Return whether ``text`` can be the name of a class, as it is.

    A class has 1 to 63 letters and digits of any script, ``-`` and ``_``. It starts with a letter or digit
    and is in Unicode's normal form C.
    """
    return (
        0 < len(text) <= MAX_CLASS
        and text[0].isalnum()
        and all(map(_is_class_character, text))
        and unicodedata.is_normalized("NFC", text)
    )


def class_of(folder: str) -> str:
    """Return the class that a folder's name denotes, which is the name itself if it can be one."""
    text = unicodedata.normalize("NFC", folder.strip())
    if is_class(text):
        return text
    words = "".join(each if _is_class_character(each) else " " for each in text).split()
    name = "_".join(words).lstrip("_-")
    while name and not name[0].isalnum():
        name = name[1:]
    if is_class(name):
        return name
    # Too long, or without a letter or digit.
    return f"{name[: MAX_CLASS - 9] or 'class'}_{_digest([folder])[:8]}"


def split_mask(stem: str) -> tuple[str, str]:
    """Split the stem of a mask into the stem of its image and a suffix such as ``_mask`` or ``_GT``."""
    found = _MASK.fullmatch(stem)
    return (found["stem"], found["suffix"]) if found else (stem, "")


def split_extension(name: str) -> tuple[str, str]:
    """Split a file name into stem and extension; the extension is empty unless it is one of an image."""
    stem, dot, extension = name.rpartition(".")
    if dot and stem and dot + extension.lower() in EXTENSIONS:
        return stem, dot + extension
    return name, ""


def safe_stem(pieces: Sequence[str]) -> str:
    """Return the stem under which a file is stored.

    Args:
        pieces: folders below the class, and the stem. An empty piece and the class's folder come first if
            that folder's name is not the class.

    Returns:
        The stem itself if it is short and has only letters, digits, ``.``, ``_`` and ``-`` of ASCII. Else a
        legible part of the pieces with a digest of all of them.
    """
    stem = pieces[-1]
    if len(pieces) == 1 and is_safe_stem(stem):
        return stem
    text = unicodedata.normalize("NFKD", "-".join(pieces))
    slug = _UNSAFE.sub("-", text.encode("ascii", "ignore").decode()).strip("-._")
    slug = slug[-_MAX_SLUG:].lstrip("-._") or "image"
    return f"{slug}--{_digest(pieces)}"


def is_safe_stem(stem: str) -> bool:
    return (
        bool(_SAFE_NAME.fullmatch(stem))
        and len(stem) <= MAX_NAME - max(map(len, EXTENSIONS))
        and not _DIGEST.search(stem)
    )


def is_hidden_folder(name: str) -> bool:
    """Return whether a folder is not entered: hidden ones, and those of macOS archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_hidden_file(name: str) -> bool:
    """Return whether a file is ignored: hidden ones that are not images, and the notes of macOS."""
    # macOS writes ._NAME next to NAME on disks of other systems.
    return name.startswith("._") or (name.startswith(".") and not split_extension(name)[1])


def readable(path: str | os.PathLike[str]) -> str:
    r"""Return a path as valid Unicode; bytes that are not UTF-8 become ``\xff``."""
    return os.fsencode(path).decode(errors="backslashreplace")


def printable(text: str) -> str:
    r"""Return a text in one line without control characters, which become ``\n`` or ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode()
        for each in text
    )


def _is_class_character(character: str) -> bool:
    # Vowel signs and accents without a composed form are marks, not letters.
    return character.isalnum() or character in "_-" or unicodedata.category(character).startswith("M")


def _folded(folder: str) -> str:
    return unicodedata.normalize("NFC", folder.strip()).casefold()


def _digest(pieces: Sequence[str]) -> str:
    return hashlib.sha256(os.fsencode("/".join(pieces))).hexdigest()[:_DIGEST_DIGITS]
