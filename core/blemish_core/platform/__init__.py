# SPDX-License-Identifier: Apache-2.0
"""Shared by every package: errors, names, durable files, logs, threads. Imports nothing else of blemish."""
