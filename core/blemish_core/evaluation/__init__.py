# SPDX-License-Identifier: Apache-2.0
"""Measuring a detector on a dataset's test images: figures, how far they can be trusted, telling images."""
