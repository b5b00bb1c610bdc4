# SPDX-License-Identifier: Apache-2.0
"""gRPC plumbing: interceptor, status mapping, health, TLS, pagination."""
