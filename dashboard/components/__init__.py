"""Components of our own: a Python function each, with its script and style sheet beside it."""
