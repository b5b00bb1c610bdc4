# SPDX-License-Identifier: Apache-2.0
"""Everything around a call: interceptor, errors as statuses, health, TLS, pagination, queue options."""
