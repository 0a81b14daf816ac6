"""Torch modules: Qwen3-VL with a depth head, in a form that trains, exports and runs from the same code."""
