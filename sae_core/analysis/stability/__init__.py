"""Whether training again finds the same features."""
