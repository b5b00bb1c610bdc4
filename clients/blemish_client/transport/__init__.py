# SPDX-License-Identifier: Apache-2.0
"""Connection, retries, requests, uploads and job watching."""
