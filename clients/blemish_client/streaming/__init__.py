# SPDX-License-Identifier: Apache-2.0
"""Camera streams and their frame sources."""
