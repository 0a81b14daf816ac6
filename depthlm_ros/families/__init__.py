"""How a trained model is asked and how its reply is read: prompts, coordinates, parsing. Pure text and numbers."""
