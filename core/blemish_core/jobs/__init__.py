# SPDX-License-Identifier: Apache-2.0
"""Slow work: its record, where the record is kept, and what each kind of job does."""
