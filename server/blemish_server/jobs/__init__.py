# SPDX-License-Identifier: Apache-2.0
"""Dispatch of jobs to the workers, and streams of job events to clients."""
