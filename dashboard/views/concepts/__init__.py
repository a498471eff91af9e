"""How well few features detect a concept."""
