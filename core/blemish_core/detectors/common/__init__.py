# SPDX-License-Identifier: Apache-2.0
"""Parts that more than one detector uses."""
