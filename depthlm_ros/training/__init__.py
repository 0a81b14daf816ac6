"""Training: of the embedded model on rendered scenes (synthetic/), and of the published systems on labelled images
(finetune/). Both share the packing of questions, the losses and the reader of recipes."""

__all__ = ["cuda_graph", "finetune", "losses", "muon", "packing", "synthetic"]
