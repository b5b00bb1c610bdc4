# SPDX-License-Identifier: Apache-2.0
"""Detectors for servers: NumPy around a network that OpenVINO runs, without torch.

Their predictions equal those of ``detectors``, which train and evaluate, up to rounding. The names of the
modules are the same. ``tests/contract/test_serving.py`` compares the two.
"""
