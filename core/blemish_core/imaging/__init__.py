# SPDX-License-Identifier: Apache-2.0
"""Conversion of received bytes to a model's input: decoding, raw camera formats, scaling, preprocessing."""
