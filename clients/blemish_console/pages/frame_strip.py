# SPDX-License-Identifier: Apache-2.0
"""A page of frames as thumbnails with their labels, drawn as one element."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from nicegui import ui
from nicegui.events import GenericEventArguments

from blemish_console.theme import Sign


@dataclass(frozen=True)
class StripFrame:
    """A frame of the strip."""

    id: str
    source: str
    """Path of the thumbnail."""
    title: str
    """Text for people who do not see the thumbnail."""
    sign: Sign


class FrameStrip(ui.element, component="frame_strip.js"):
    """Thumbnails in rows. Their texts are never interpreted as HTML."""

    def __init__(
        self, on_open: Callable[[str], Awaitable[None]], on_choose: Callable[[str, bool], None]
    ) -> None:
        """Draw an empty strip.

        Args:
            on_open: called with the id of a frame that was clicked.
            on_choose: called with the id of a frame, and whether its box was checked.
        """
        super().__init__()
        self._on_open = on_open
        self._on_choose = on_choose
        self._frames: dict[str, dict[str, str]] = {}
        self.props["frames"], self.props["here"], self.props["selected"] = [], "", []
        self.on("open", self._open)
        self.on("choose", self._choose)

    @property
    def ids(self) -> list[str]:
        """Ids of the shown frames."""
        return list(self._frames)

    def show(self, frames: Iterable[StripFrame]) -> None:
        """Show other frames."""
        self._frames = {frame.id: _values(frame) for frame in frames}
        self.props["frames"] = list(self._frames.values())

    def redraw(self, frame: StripFrame) -> None:
        """Redraw a frame if it is shown."""
        if frame.id in self._frames:
            self._frames[frame.id].update(_values(frame))
            self.update()

    def show_here(self, id: str) -> None:
        """Mark the frame in work."""
        self.props["here"] = id

    def select(self, ids: Iterable[str]) -> None:
        """Check the boxes of these frames."""
        self.props["selected"] = sorted(self._frames.keys() & set(ids))

    async def _open(self, event: GenericEventArguments) -> None:
        if event.args in self._frames:
            await self._on_open(event.args)

    def _choose(self, event: GenericEventArguments) -> None:
        id, is_chosen = event.args.get("id"), event.args.get("chosen") is True
        if id in self._frames:
            self._on_choose(id, is_chosen)


def _values(frame: StripFrame) -> dict[str, str]:
    return {
        "id": frame.id,
        "source": frame.source,
        "title": frame.title,
        "word": frame.sign.word,
        "icon": frame.sign.icon,
        "tone": frame.sign.tone,
    }
