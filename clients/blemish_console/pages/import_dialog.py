# SPDX-License-Identifier: Apache-2.0
"""The dialog that sends an exported version to the server."""

from nicegui import ui
from nicegui.events import GenericEventArguments

from blemish_console import texts
from blemish_console.formats import size
from blemish_console.security import IMPORT_PATH
from blemish_console.shell import View

_ANSWER = "(answer) => emit(answer.xhr.status, answer.xhr.responseText)"


async def import_dialog(view: View) -> str:
    """Send a file that the person chooses, and return the name of the new version; empty for none."""
    limit = view.session.info.max_loaded_bytes
    with (
        ui.dialog().props("persistent") as dialog,
        ui.card().classes("bl-card").style("width: 520px; max-width: 100%"),
    ):
        ui.label(texts.IMPORT_TITLE).classes("bl-h1")
        ui.label(texts.IMPORT_LEAD).classes("bl-faint")
        name = ui.input(texts.IMPORT_AS).props("dense outlined maxlength=64").classes("w-full")
        state = ui.label(texts.IMPORT_CHECKS).classes("bl-faint")
        problem = ui.label().classes("bl-problem").props('role="alert"')
        # The file is sent as it is, so that the console can pass its bytes on as they arrive.
        uploader = ui.element("q-uploader").classes("w-full bl-drop")
        uploader.props("flat auto-upload send-raw")
        uploader.props["label"] = texts.IMPORT_DROP
        uploader.props[":url"] = (
            f"() => '{view.root_path}{IMPORT_PATH}?as=' + "
            f"encodeURIComponent(document.getElementById('{name.html_id}').value.trim())"
        )
        if limit:
            uploader.props["max-file-size"] = limit
        with ui.row().classes("w-full justify-end"):
            ui.button(texts.CANCEL, on_click=lambda: dialog.submit("")).props("flat")
    state.set_visibility(False)
    problem.set_visibility(False)

    def start() -> None:
        state.set_visibility(True)
        problem.set_visibility(False)

    def fail(message: str) -> None:
        state.set_visibility(False)
        problem.set_text(message)
        problem.set_visibility(True)
        uploader.run_method("reset")

    def failed(event: GenericEventArguments) -> None:
        status, answer = event.args
        fail(str(answer).strip() if status else texts.IMPORT_CUT)

    uploader.on("uploading", start, [])
    uploader.on("uploaded", lambda event: dialog.submit(event.args[1]), js_handler=_ANSWER)
    uploader.on("failed", failed, js_handler=_ANSWER)
    uploader.on("rejected", lambda: fail(texts.IMPORT_REJECTED.format(limit=size(limit))), [])
    version = await dialog
    dialog.delete()
    return str(version or "")
