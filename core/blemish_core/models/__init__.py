# SPDX-License-Identifier: Apache-2.0
"""Trained model versions: bundles, store, loading, export archives and calibration history."""
