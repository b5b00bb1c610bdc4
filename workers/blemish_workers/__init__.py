# SPDX-License-Identifier: Apache-2.0
"""The worker process, which runs jobs that it receives through Celery."""
