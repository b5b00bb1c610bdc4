# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a detector on test images: metrics, confidence intervals and example images."""
