# SPDX-License-Identifier: Apache-2.0
"""Slow work, run by Celery outside any request."""
