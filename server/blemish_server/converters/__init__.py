# SPDX-License-Identifier: Apache-2.0
"""Conversion between the contract's messages and domain objects, one module per service.

``parse_*`` functions read requests and reject invalid ones. ``*_to_proto`` functions build responses.
"""
