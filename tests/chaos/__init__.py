# SPDX-License-Identifier: Apache-2.0
"""Faults in a running stack, and what must hold after each: ``make chaos``."""
