"""A ray caster with exact depth, in numba kernels: `render` draws one picture on the CPU, `gpu` draws many pictures
at once on an NVIDIA GPU with the same functions per pixel. `kernels`, which `gpu` imports when it is needed, requires
numba's CUDA target.
"""

__all__ = ["batch", "gpu", "jit", "lighting", "lookup", "mirror", "raycast", "render", "shading", "surfaces", "texture"]
