# SPDX-License-Identifier: Apache-2.0
"""PatchCore (Roth et al., CVPR 2022): inference here, training in ``training``."""
