# SPDX-License-Identifier: Apache-2.0
"""Scoring: admission, model cache, batching, streams, shadow, recording."""
