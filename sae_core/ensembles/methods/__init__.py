"""The ensemble methods, one a file: a new file here is a new method, and all else reads its declaration."""
