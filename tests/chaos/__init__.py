# SPDX-License-Identifier: Apache-2.0
"""Faults injected into a running stack, and the checks after each: ``make chaos``."""
