"""The dictionary: the feature table, the map and its clusters, the logit lens, diversity."""
