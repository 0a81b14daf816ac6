"""Training: rendered scenes in, a checkpoint out."""
