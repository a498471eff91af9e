"""All labels of a run: the table, several at once, files, history."""
