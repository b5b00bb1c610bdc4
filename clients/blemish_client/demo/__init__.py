# SPDX-License-Identifier: Apache-2.0
"""``blemish demo``: learn, score and search some surfaces on this machine, and show how well it went."""
