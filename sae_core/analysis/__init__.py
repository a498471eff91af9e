"""What is computed from a trained run: one folder a subject."""
