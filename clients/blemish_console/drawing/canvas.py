# SPDX-License-Identifier: Apache-2.0
"""The element of a page on which a person draws, with its tools."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from blemish_console import texts
from blemish_console.drawing.shapes import Layer, Shape, Sketch, Tool, UnusableShape, overlay_png

_OVERLAY_PX = 2048
_SIZES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
"""Radii of the brush as shares of the image's shorter side."""
_DEFAULT_SIZE = 2
_MOVE = "move"
_ERASER = "eraser"
_ICONS = {
    Tool.BOX: "crop_square",
    Tool.POLYGON: "polyline",
    Tool.BRUSH: "brush",
    _ERASER: "auto_fix_normal",
    _MOVE: "pan_tool",
}
_LAYER_ICONS: dict[str, str] = {Layer.INSPECT: "visibility", Layer.IGNORE: "visibility_off"}


@dataclass(frozen=True)
class DrawingOptions:
    """The choices of a page about its drawing."""

    tools: Sequence[Tool] = (Tool.BOX, Tool.POLYGON, Tool.BRUSH)
    """Tools that are offered, the first one chosen. With a brush there is an eraser."""
    layers: Sequence[Layer] = (Layer.DEFECT,)
    """Layers that can be drawn on, the first one chosen."""
    single: bool = False
    """True if a box replaces everything that was drawn before."""
    asks: bool = False
    """True if the browser asks before it leaves a page with changes."""
    editable: bool = True
    """False to show the image with its mask only."""


class Canvas(Element, component="canvas.js"):
    """An image to draw on, which can be zoomed and moved."""

    def __init__(
        self, url: str, sketch: Sketch, options: DrawingOptions, on_change: Callable[[], Any]
    ) -> None:
        """Show an image.

        Args:
            url: picture of the upright image, of any size.
            sketch: receives the steps of the person.
            options: choices of the page.
            on_change: called after each step; it may be a coroutine function.
        """
        super().__init__()
        self._sketch = sketch
        self._on_change = on_change
        self.radius = brush_radii(sketch)[_DEFAULT_SIZE]
        base = ""
        if sketch.base is not None:
            png = overlay_png(sketch.base, _OVERLAY_PX)
            base = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        self._props["src"] = url
        self._props["width"] = sketch.width
        self._props["height"] = sketch.height
        self._props["base"] = base
        self._props["label"] = texts.DRAWING_LABEL
        self._props["layers"] = [layer.value for layer in options.layers]
        self._props["settings"] = {
            "tool": options.tools[0].value if options.editable else _MOVE,
            "radius": self.radius,
            "layer": options.layers[0].value,
            "erases": False,
            "single": options.single,
            "asks": options.asks,
            "steps": [None if step is None else step.to_page() for step in sketch.steps],
        }
        if options.editable:
            self.on("draw", self._draw)
            self.on("undo", lambda: self._step(sketch.undo))
            self.on("clear", lambda: self._step(sketch.clear))

    def configuring(self, settings: str) -> str:
        """Return a script of the browser that changes tool, radius, layer or erases.

        The change does not take the way over the server, because a person may draw at once.

        Args:
            settings: object of JavaScript with the new values.
        """
        return f"getElement({self.id}).configure({settings})"

    def clear_all(self) -> None:
        """Remove everything that is drawn, as the person can."""
        self.run_method("clear")

    def settle(self) -> None:
        """Forget the steps, after they were saved or discarded."""
        self.run_method("settled")

    def button(self, icon: str, title: str, call: str) -> ui.button:
        """Return a button that calls a method of the canvas in the browser."""
        button = ui.button(icon=icon).props("flat dense").tooltip(title)
        button.props["aria-label"] = title
        button.on("click", js_handler=f"() => getElement({self.id}).{call}")
        return button

    def _draw(self, event: GenericEventArguments) -> Any:
        try:
            shape = Shape.parse(event.args, (self._sketch.width, self._sketch.height))
        except UnusableShape:
            return None
        return self._step(lambda: self._sketch.add(shape))

    def _step(self, step: Callable[[], None]) -> Any:
        step()
        return self._on_change()


def brush_radii(sketch: Sketch) -> list[float]:
    """Return the radii of the brush for an image, in px."""
    side = min(sketch.width, sketch.height)
    return [max(0.5, round(2 * side * size) / 2) for size in _SIZES]


def draw(
    url: str, sketch: Sketch, options: DrawingOptions, on_change: Callable[[], Any] = lambda: None
) -> Canvas:
    """Draw the tools and the image in the current place of the page.

    Args:
        url: picture of the upright image.
        sketch: receives the steps of the person.
        options: choices of the page.
        on_change: called after each step; it may be a coroutine function.
    """
    bar = ui.row().classes("w-full items-center bl-draw-bar")
    canvas = Canvas(url, sketch, options, on_change)
    with bar:
        if options.editable:
            if len(options.layers) > 1:
                _layer_choice(canvas, options)
            _tool_choice(canvas, options)
            if Tool.BRUSH in options.tools:
                _size_choice(canvas, sketch)
            canvas.button("undo", texts.DRAW_UNDO, "undo()")
            canvas.button("delete_outline", texts.DRAW_CLEAR, "clear()")
        ui.space()
        with ui.row().classes("no-wrap").style("gap: 2px"):
            canvas.button("zoom_out", texts.DRAW_ZOOM_OUT, "zoom(0.8)").classes("bl-draw-zoom")
            canvas.button("zoom_in", texts.DRAW_ZOOM_IN, "zoom(1.25)").classes("bl-draw-zoom")
            canvas.button("fit_screen", texts.DRAW_FIT, "fit()")
    return canvas


def _tool_choice(canvas: Canvas, options: DrawingOptions) -> None:
    tools: list[str] = [tool.value for tool in options.tools]
    if Tool.BRUSH in options.tools:
        tools.append(_ERASER)
    tools.append(_MOVE)

    def settings(tool: str) -> dict[str, object]:
        is_eraser = tool == _ERASER
        return {"tool": Tool.BRUSH.value if is_eraser else tool, "erases": is_eraser}

    _choice(canvas, tools, _ICONS, texts.DRAW_TOOLS, texts.DRAW_TOOL_NAMES, settings)


def _layer_choice(canvas: Canvas, options: DrawingOptions) -> None:
    layers = [layer.value for layer in options.layers]
    _choice(
        canvas,
        layers,
        _LAYER_ICONS,
        texts.DRAW_LAYERS,
        texts.DRAW_LAYER_NAMES,
        lambda layer: {"layer": layer},
        word_class="bl-draw-name",
    )


def _choice(
    canvas: Canvas,
    values: Sequence[str],
    icons: Mapping[str, str],
    titles: Mapping[str, str],
    words: Mapping[str, str],
    settings: Callable[[str], Mapping[str, object]],
    word_class: str = "bl-draw-word",
) -> None:
    """Draw buttons of which one is chosen, at first the first one. Each has its settings of the canvas."""
    buttons: dict[str, ui.button] = {}

    def mark(value: str) -> None:
        for each, button in buttons.items():
            is_chosen = each == value
            button.props(
                remove="flat" if is_chosen else "unelevated", add="unelevated" if is_chosen else "flat"
            )
            button.props["aria-pressed"] = "true" if is_chosen else "false"

    with ui.row().classes("bl-draw-group").props("role=group"):
        for value in values:
            button = ui.button(icon=icons[value], on_click=lambda value=value: mark(value))
            button.on("click", js_handler=f"() => {canvas.configuring(json.dumps(settings(value)))}")
            button.props("dense padding='4px 6px'").tooltip(titles[value])
            button.props["aria-label"] = titles[value]
            with button:
                ui.label(words[value]).classes(word_class)
            buttons[value] = button
    mark(values[0])


def _size_choice(canvas: Canvas, sketch: Sketch) -> None:
    radii = list(dict.fromkeys(brush_radii(sketch)))
    sizes = {radius: texts.DRAW_SIZE.format(size=f"{2 * radius:g}") for radius in radii}
    sizing = canvas.configuring(f"{{radius: {radii}[choice.value]}}")
    size = (
        ui.select(sizes, value=canvas.radius).props("dense outlined options-dense").classes("bl-draw-size")
    )
    size.on("update:model-value", js_handler=f"(choice) => {sizing}")
    size.props["aria-label"] = texts.DRAW_SIZES
