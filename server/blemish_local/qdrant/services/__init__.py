# SPDX-License-Identifier: Apache-2.0
"""Servicers of Qdrant's Points and Collections APIs."""
