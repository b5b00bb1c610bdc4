# SPDX-License-Identifier: Apache-2.0
"""The code that a worker's child process runs for each job kind."""
