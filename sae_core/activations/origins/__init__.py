"""Where activations come from: a language model that reads text, or a known dictionary."""
