"""Which features are alike: by their atoms, by what they fire on; one to one, nearest, in families."""
