"""What a language model is, found by running it, and how it is loaded."""
