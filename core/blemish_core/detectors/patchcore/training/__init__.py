# SPDX-License-Identifier: Apache-2.0
"""PatchCore's training: coreset, whitening, synthetic defects."""
