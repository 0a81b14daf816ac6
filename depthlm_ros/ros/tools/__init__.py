# SPDX-License-Identifier: Apache-2.0
"""Tools around the depth node: a camera made of files, the demo, a graph of processes for demo and benchmarks, and what
the launch files share.

The node never imports this room.
"""

__all__ = ["demo", "launching", "process_graph", "replay_camera"]
