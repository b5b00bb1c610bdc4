# SPDX-License-Identifier: Apache-2.0
"""Engines that run a detector's network: one file each, behind ``detectors.detector.Runtime``."""
