"""Where activations come from: text, a language model's layer, a cache on disk, arrays."""
