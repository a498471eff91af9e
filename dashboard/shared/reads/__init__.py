"""Reads of a run that several pages need, cached.

They and the `data` of each page alone ask `sae_core` for data.

Memory maps and tables are shared between sessions and never changed; a key is a path and its modification time, so
that a run that goes on is seen as it is. What a run does not have yet is None.
"""
