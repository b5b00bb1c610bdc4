# SPDX-License-Identifier: Apache-2.0
"""Connections, credentials, retries, requests, uploads and job watching."""
