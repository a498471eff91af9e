"""The dictionary: its table, map, clusters, logit lens, and how diverse it is."""
