# SPDX-License-Identifier: Apache-2.0
"""Collections and aliases on disk, over the engine."""
