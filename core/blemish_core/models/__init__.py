# SPDX-License-Identifier: Apache-2.0
"""Trained model versions: bundles, their store, loading, export archives, calibration history."""
