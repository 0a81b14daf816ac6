"""Build and keep engines: what a TensorRT version takes, building its plans, and looking after them."""
