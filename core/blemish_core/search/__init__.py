# SPDX-License-Identifier: Apache-2.0
"""Similarity search: an index of embeddings in Qdrant for each model version.

``search_index`` writes and reads the indexes, ``finder`` runs similarity queries (``query``), and ``item``
defines what is stored. ``label_reader`` reads the items that people labelled, by which ``labelled_items``
classifies defects. ``filter_language`` parses filters on ``fields`` to ``conditions``, which
``qdrant_filter`` compiles to Qdrant's messages. ``frame_store`` and ``item_images`` hold the images.
"""
