# SPDX-License-Identifier: Apache-2.0
"""Requests and answers: from Qdrant's protobuf messages to the engine's types and back."""
