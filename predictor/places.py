"""What contexts and categories say of a row until the next change, alone and in columns. Pure.

Most of a prediction depends on names only. It is worked out once for each name between two changes;
of a batch it is gathered from columns, so that no row of it costs a step of Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ids = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a row's contexts and categories alone.

    Attributes:
        names: What trees see of them: their ranks and what they lately said, (n,) float32.
        mixed: The contexts' part of the mixture, (n_edges,).
        tree_weight: Weight of all trees in it.
        tree_weights: Weight of each tree, (n_trees,) float32.
        head_weights: Weight of each kind of the head's residuals, (RESIDUAL_KIND_COUNT,).
        effective_count: Runs behind it.
        depth: Contexts that have runs.
        typical_s: Of the newest runs of the deepest context with enough; None: there is none.
    """

    names: Singles
    mixed: Floats
    tree_weight: float
    tree_weights: Singles
    head_weights: Floats
    effective_count: float
    depth: int
    typical_s: float | None


@dataclass(frozen=True, slots=True)
class PlaceColumns:
    """Places in columns: some of `Place`, and what is told of each.

    Attributes:
        names: (n, n_names) float32.
        mixed: (n, n_edges).
        tree_weight: (n,).
        tree_weights: (n, n_trees) float32.
        head_weights: (n, RESIDUAL_KIND_COUNT).
        centres: (n,), about ln t: what contexts believe, then what the head last told. For the
            order of a batch alone.
        typicals_s: (n,), NaN where too few runs are known.
        effective_counts: (n,).
        depths: (n,).
    """

    names: Singles
    mixed: Floats
    tree_weight: Floats
    tree_weights: Singles
    head_weights: Floats
    centres: Floats
    typicals_s: Floats
    effective_counts: Floats
    depths: Ids

    @classmethod
    def of(cls, places: Sequence[Place], edges: Floats) -> "PlaceColumns":
        """Return `places`, at least one, in order; `edges` are those of `mixed`."""
        mixed = np.array([place.mixed for place in places])
        return cls(
            names=np.array([place.names for place in places]),
            mixed=mixed,
            tree_weight=np.array([place.tree_weight for place in places]),
            tree_weights=np.array([place.tree_weights for place in places]),
            head_weights=np.array([place.head_weights for place in places]),
            # The mean is what lies above each piece of the curve, from the lowest edge on.
            centres=edges[0] + (mixed[:, -1:] - mixed[:, 1:]) @ np.diff(edges),
            typicals_s=np.array(
                [np.nan if place.typical_s is None else place.typical_s for place in places]
            ),
            effective_counts=np.array([place.effective_count for place in places]),
            depths=np.array([place.depth for place in places]),
        )

    def and_also(self, more: "PlaceColumns") -> "PlaceColumns":
        """Return these places, then `more`."""
        columns = ((getattr(self, name), getattr(more, name)) for name in _COLUMNS)
        return PlaceColumns(*map(np.concatenate, columns))


_COLUMNS = tuple(field.name for field in fields(PlaceColumns))
