"""Steps through an order of features, as the keys and buttons of a feature's page take them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stepped(order: NDArray[np.int64], feature: int, steps: int) -> int:
    """The feature so many places on in an order, at most at its end; a negative number of steps goes back.

    A feature that is not in the order lies between its neighbours by number.

    Args:
        order: Features in the order of the table.
        feature: Where the steps begin.
        steps: How many.
    """
    places = np.flatnonzero(order == feature)
    if len(places):
        return int(order[np.clip(places[0] + steps, 0, len(order) - 1)])
    ascending = np.sort(order)
    lower, higher = ascending[ascending < feature], ascending[ascending > feature]
    side, place = (higher, steps - 1) if steps > 0 else (lower, len(lower) + steps)
    return int(side[np.clip(place, 0, len(side) - 1)]) if len(side) and steps else feature
