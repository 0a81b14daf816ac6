"""Training of published systems on labelled photographs: the recipes of DepthLM, DepthVLM and VLM3 on Hugging Face's
Trainer, from a base checkpoint to one in the released layout."""
