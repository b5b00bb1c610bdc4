# SPDX-License-Identifier: Apache-2.0
"""The run of a stack: from its start to its end, and the lines that it prints."""
