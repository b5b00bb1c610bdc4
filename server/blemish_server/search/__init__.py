# SPDX-License-Identifier: Apache-2.0
"""Search by region, migration of indexes to new model versions, and a cache of lookups."""
