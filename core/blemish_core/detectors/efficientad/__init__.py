# SPDX-License-Identifier: Apache-2.0
"""EfficientAD (Batzner et al., WACV 2024): inference in this package, training in ``training``."""
