"""Members of an ensemble compared: how alike, families of features, one text through all, stages."""
