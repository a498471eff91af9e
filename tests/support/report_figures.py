"""Hand-made figures in the form that the report gathers."""

EXPLAINED = "reconstruction.explained_variance"


def figure(mean, low=None, high=None):
    return {"mean": mean, "low": low, "high": high, "values": [mean], "interval": "seeds" if low is not None else None}
