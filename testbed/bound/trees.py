"""The cheapest way of one artifact to many sites. Pure.

Dreyfus and Wagner, "The Steiner problem in graphs", Networks 1 (1971), with arcs that have a
direction: an artifact spreads from its home, and whoever has it may pass it on.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Sets of sites grow as 2^s, the effort as 3^s: 8 sites take 0.1 s, 10 take 1 s.
TREE_SITE_COUNT_MAX: Final = 10


def cheapest_trees(arcs: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return (s, 2^s): from each root, the least sum of arcs that reach every site of a set.

    Args:
        arcs: (s, s) price of each arc, 0 or more; the diagonal is not read. Bit i of a set's index
            says whether site i is in it; the root needs no arc.

    Returns:
        The trees; None where there are more than `TREE_SITE_COUNT_MAX` sites.
    """
    count = len(arcs)
    if count > TREE_SITE_COUNT_MAX:
        return None
    paths = arcs.copy()
    np.fill_diagonal(paths, 0.0)
    for via in range(count):
        paths = np.minimum(paths, paths[:, via, np.newaxis] + paths[via])
    trees = np.zeros((count, 1 << count))
    for chosen in range(1, 1 << count):
        members = [i for i in range(count) if chosen >> i & 1]
        if len(members) == 1:
            trees[:, chosen] = paths[:, members[0]]
            continue
        # Where the tree forks: each split is looked at once, by the side that has the first member.
        forks = np.full(count, np.inf)
        rest = chosen & (chosen - 1)
        part = rest
        while part:
            forks = np.minimum(forks, trees[:, part] + trees[:, chosen ^ part])
            part = (part - 1) & rest
        trees[:, chosen] = (paths + forks).min(axis=1)
    return trees
