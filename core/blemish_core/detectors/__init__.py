# SPDX-License-Identifier: Apache-2.0
"""Anomaly detectors that learn from good images alone: one package each, behind ``base.Detector``."""
