# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes with exact truth: furnished rooms, a ray caster, cameras, and questions with true replies.

The world frame is in metres with z up; a pose is a camera's optical frame (x right, y down, z forward) in it. Scenes,
pictures and questions depend only on the seed. Only this folder needs numba (extra [scenes]).
"""

__all__ = ["camera", "questions", "renderer", "world", "write_dataset"]
