# SPDX-License-Identifier: Apache-2.0
"""Drawing on images by mouse, pen and touch: the shapes, their pixels, and the element of a page."""
