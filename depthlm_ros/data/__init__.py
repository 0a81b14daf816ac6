"""Labelled images for training and evaluation.

Defines one schema of records, reads and writes them as JSON Lines, checks and displays them, packs them into WebDataset
shards, and converts public data sets (`sets`) into them.
"""

__all__ = [
    "check",
    "curate",
    "depthfile",
    "inspect",
    "pairs",
    "read",
    "records",
    "sample_points",
    "sets",
    "source_view",
    "webdataset",
    "worker_pool",
    "write",
]
