"""The commands, a module for each group that belongs together; `cli.py` puts them into one program."""
