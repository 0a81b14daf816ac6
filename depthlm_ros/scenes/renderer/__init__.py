# SPDX-License-Identifier: Apache-2.0
"""A ray caster with exact depth, in numba kernels: `render` draws one picture on the CPU."""

__all__ = ["jit", "lighting", "lookup", "mirror", "raycast", "render", "shading", "surfaces", "texture"]
