# SPDX-License-Identifier: Apache-2.0
"""Errors, names, durable files, locks, logs and threads. Shared by all packages; imports none of them."""
