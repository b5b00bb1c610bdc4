# SPDX-License-Identifier: Apache-2.0
"""The wire contract: messages and services generated from ``protos/``."""
