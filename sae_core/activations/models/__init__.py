"""What a language model is, found by running it: weights, blocks, context, causality, its path to the logits."""
