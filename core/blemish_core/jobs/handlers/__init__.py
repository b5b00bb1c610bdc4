# SPDX-License-Identifier: Apache-2.0
"""The code that a worker's child process runs: one module per kind of job, and what they share."""
