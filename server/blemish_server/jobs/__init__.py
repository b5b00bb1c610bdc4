# SPDX-License-Identifier: Apache-2.0
"""Dispatch of jobs to Celery, and job events for watchers."""
