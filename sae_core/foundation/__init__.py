"""The basis of all other rooms: the run folder, settings, files, errors, numbers, progress."""
