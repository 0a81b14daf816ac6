# SPDX-License-Identifier: Apache-2.0
"""Evaluation: reads labelled images, runs a model on them, and computes its scores.

It scores depth (depth.py), what a model says about objects, matches and poses (language.py), and rendered scenes
(rendered_scenes.py). Its tables compare the scores with the published ones.
"""

__all__ = [
    "baselines",
    "depth",
    "gallery",
    "image_pairs",
    "judges",
    "language",
    "metrics",
    "object_questions",
    "published",
    "released",
    "rendered_scenes",
    "report",
    "result_file",
    "tables",
    "uncertainty",
]
