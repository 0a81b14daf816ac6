# SPDX-License-Identifier: Apache-2.0
"""What the depth map says about objects: segmentation of the object in a box, its extents, relations, and gravity.

`measure.measure` is the entry point; the view calls it for every question about pixels, boxes or named objects.
"""

__all__ = ["extents", "measure", "segment", "surface_patches"]
