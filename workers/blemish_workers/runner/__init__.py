# SPDX-License-Identifier: Apache-2.0
"""Execution of jobs: leases, attempts, slots and their child processes."""
