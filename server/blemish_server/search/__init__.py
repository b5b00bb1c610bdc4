# SPDX-License-Identifier: Apache-2.0
"""Search by region, and migration of indexes to new versions."""
