# SPDX-License-Identifier: Apache-2.0
"""Components that several detectors share."""
