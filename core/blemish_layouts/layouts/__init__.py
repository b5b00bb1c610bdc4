# SPDX-License-Identifier: Apache-2.0
"""The layouts of folders. Each module detects its layouts and arranges their files."""
