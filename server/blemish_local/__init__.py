# SPDX-License-Identifier: Apache-2.0
"""The embedded stack: Redis, Qdrant, one worker and the server on one machine, one command."""
