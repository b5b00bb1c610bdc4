# SPDX-License-Identifier: Apache-2.0
"""The calls behind the pages: one module per area, each of blocking functions that take a client."""
