# SPDX-License-Identifier: Apache-2.0
"""Detection and search, free of gRPC and Celery."""
