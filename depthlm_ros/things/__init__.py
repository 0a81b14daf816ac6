"""Things in a depth map: found in their boxes, as points in space, upright. Pure geometry; measure.py asks it."""
