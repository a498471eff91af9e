"""The activation index and the tables made from it."""
