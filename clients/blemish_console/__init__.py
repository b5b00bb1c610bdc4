# SPDX-License-Identifier: Apache-2.0
"""The console: blemish in a browser.

A client of the gRPC contract, drawn with NiceGUI. ``app`` composes it, ``pages`` has one module per page,
and ``data`` the calls that the pages make. Tokens stay in this process: see ``session``.
"""
