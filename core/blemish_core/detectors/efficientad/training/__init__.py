# SPDX-License-Identifier: Apache-2.0
"""EfficientAD's training: losses, solved start, steps, checkpoints."""
