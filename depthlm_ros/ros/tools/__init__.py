"""Tools around the depth node: a camera made of files, the demo, and a graph of processes for demo and benchmarks.

The node never imports this room.
"""

__all__ = ["demo", "process_graph", "replay_camera"]
