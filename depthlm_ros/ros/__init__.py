# SPDX-License-Identifier: Apache-2.0
"""The depth node for ROS 2: lifecycle, subscriptions and publishers, services, message conversion, diagnostics.

Only this room imports rclpy. Its folder `tools` holds a replay camera and the demo, which the node does not need.
"""

__all__ = ["diagnostics", "message_in", "message_out", "node", "parameters", "services", "tools"]
