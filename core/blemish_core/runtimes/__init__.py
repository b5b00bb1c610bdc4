# SPDX-License-Identifier: Apache-2.0
"""Runtimes that replace torch: one module each, behind ``detectors.base.Runtime``."""
