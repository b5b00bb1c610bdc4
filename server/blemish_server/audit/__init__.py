# SPDX-License-Identifier: Apache-2.0
"""The audit log: the calls that change something or were denied, and their callers."""
