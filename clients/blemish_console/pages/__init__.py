# SPDX-License-Identifier: Apache-2.0
"""The pages of the console, one module each, whose ``build`` draws the page for a view."""
