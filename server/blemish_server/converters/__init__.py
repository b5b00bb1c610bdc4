# SPDX-License-Identifier: Apache-2.0
"""Conversion between messages of the contract and core objects."""
