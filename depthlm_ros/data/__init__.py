# SPDX-License-Identifier: Apache-2.0
"""Labelled images for training and evaluation.

Defines one schema of records, reads and writes them as JSON Lines, checks and displays them, packs them into WebDataset
shards, converts public data sets (`sets`) into them, and labels photographs with teachers.
"""

__all__ = [
    "check",
    "curate",
    "depthfile",
    "inspect",
    "labelling",
    "pairs",
    "photo_labels",
    "read",
    "records",
    "sample_points",
    "sets",
    "source_view",
    "webdataset",
    "worker_pool",
    "write",
]
