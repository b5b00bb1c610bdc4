# SPDX-License-Identifier: Apache-2.0
"""Algorithms that learn what is normal from good images alone: one file each, behind one interface."""
