"""What every other room stands on: the run folder, settings, files, errors, numbers, progress."""
