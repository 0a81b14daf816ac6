"""How a model is run: one class per runtime, all with the same two calls, and one greedy loop over them."""
