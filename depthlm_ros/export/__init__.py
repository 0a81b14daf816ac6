"""Checkpoint -> ONNX graphs -> bundle (the build side: torch and transformers live here, not on the robot)."""
