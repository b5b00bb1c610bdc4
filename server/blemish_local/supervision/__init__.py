# SPDX-License-Identifier: Apache-2.0
"""Supervised processes: start, readiness probes, log files, restarts and stop."""
