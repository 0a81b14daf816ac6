"""Synthetic rooms with exact depth: sampled scenes, a ray caster, photographs and true questions.

World frame: metres, z up. A pose is the camera's optical frame (x right, y down, z forward) in it.
numba is needed here and nowhere else (extra [scenes]).
"""
