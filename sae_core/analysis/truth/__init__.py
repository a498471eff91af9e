"""What is found of a known dictionary."""
