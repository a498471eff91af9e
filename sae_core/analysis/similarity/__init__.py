"""Match features: by their atoms and by the tokens on which they fire; one to one, nearest, in families."""
