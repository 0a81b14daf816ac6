"""Evaluation: labelled photographs in, scores out."""
