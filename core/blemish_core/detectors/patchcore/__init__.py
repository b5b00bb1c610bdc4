# SPDX-License-Identifier: Apache-2.0
"""PatchCore (Roth et al., CVPR 2022): inference in this package, training in ``training``."""
