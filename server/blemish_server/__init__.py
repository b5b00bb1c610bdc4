# SPDX-License-Identifier: Apache-2.0
"""The gRPC edge: translate requests, call the core, translate answers."""
