# SPDX-License-Identifier: Apache-2.0
"""The version that a training has published, with the offer to start it as the shadow."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from nicegui import ui

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish_client.client import Client
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data.learn import ShadowOffer, Standing
from blemish_console.shell import View

_SENTENCES = {
    Standing.NEW: texts.OFFER_NEW,
    Standing.SHADOW: texts.OFFER_SHADOW,
    Standing.PRODUCTION: texts.OFFER_PRODUCTION,
    Standing.OLDER: texts.OFFER_OLDER,
    Standing.ALONE: texts.OFFER_ALONE,
    Standing.DELETED: texts.OFFER_DELETED,
}


def draw_offer(view: View, offer: ShadowOffer, on_change: Callable[[], Awaitable[None]]) -> None:
    """Draw the place of a version, and what can be done with it.

    Args:
        view: context of the page.
        offer: version and its place.
        on_change: called after the version became the shadow.
    """
    names = {
        "version": short(offer.version),
        "production": short(offer.production),
        "shadow": short(offer.shadow),
    }

    async def start() -> None:
        await view.session.call(Client.shadow, offer.version)
        ui.notify(texts.SHADOW_STARTED.format(**names), type="positive", position="top")
        await on_change()

    with ui.row().classes("w-full items-center").style("gap: 12px"):
        if offer.standing is Standing.SHADOW:
            theme.chip(theme.SHADOW)
        ui.label(_SENTENCES[offer.standing].format(**names)).classes("col").style("min-width: 260px")
        if offer.standing is Standing.NEW and view.session.may(ROLE_OPERATOR):
            ui.button(texts.START_SHADOW, icon="visibility", on_click=lambda: view.attempt(start)).props(
                "unelevated dense padding='4px 12px'"
            )
        if offer.standing is not Standing.DELETED:
            if offer.production and offer.production != offer.version:
                versions = {"a": names["production"], "b": names["version"]}
                theme.link(texts.COMPARE_WITH.format(**names), f"/compare?{urlencode(versions)}")
            theme.link(
                texts.SHOW_VERSION.format(**names), f"/models?{urlencode({'version': names['version']})}"
            )
    if offer.standing is Standing.NEW and offer.shadow:
        ui.label(texts.OFFER_REPLACES.format(**names)).classes("bl-faint")
