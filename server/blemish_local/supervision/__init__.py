# SPDX-License-Identifier: Apache-2.0
"""Supervised processes: start, probes, log files, stop."""
