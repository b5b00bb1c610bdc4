# SPDX-License-Identifier: Apache-2.0
"""Localization: the outlines of defects from an anomaly map, in px of the original frame."""
