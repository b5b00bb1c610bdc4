# SPDX-License-Identifier: Apache-2.0
"""The embeddings of a model version's images in Qdrant, and how they are searched."""
