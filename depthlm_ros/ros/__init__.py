"""The ROS 2 end: the depth node, message conversion, parameters, diagnostics and a replay camera."""
