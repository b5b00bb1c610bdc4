# SPDX-License-Identifier: Apache-2.0
"""HTML in which text cannot become markup: whatever is not made here is escaped."""

from base64 import b64encode
from dataclasses import dataclass
from html import escape

_VOID = frozenset({"img", "meta", "br"})


@dataclass(frozen=True)
class Markup:
    """HTML that is safe as it stands."""

    html: str


Child = Markup | str | None


def tag(name: str, /, *children: Child, **attributes: str) -> Markup:
    """Return an element; ``class_`` is the attribute ``class``, and None among the children is nothing."""
    written = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children).html}</{name}>")


def joined(*children: Child) -> Markup:
    return Markup(
        "".join(
            child.html if isinstance(child, Markup) else escape(child)
            for child in children
            if child is not None
        )
    )


def picture(data: bytes, kind: str, alt: str, **attributes: str) -> Markup:
    """Return an image that carries its own bytes; ``kind`` is png or jpeg."""
    source = f"data:image/{kind};base64,{b64encode(data).decode()}"
    return tag("img", src=source, alt=alt, **attributes)


def table(head: tuple[str, ...], rows: list[tuple[Child, ...]], class_: str = "") -> Markup:
    """Return a table that scrolls by itself where it is too wide."""
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head))),
            tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows)),
            class_=class_,
        ),
        class_="scroll",
    )
