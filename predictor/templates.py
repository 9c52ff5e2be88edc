"""Templates that were asked for since the last change, in columns. Pure.

A batch asks for many sizes of few templates. What no size changes is worked out once for each
template and pool type, and gathered for all questions of a batch together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from predictor.codes import seen_numbers
from predictor.features import TOKENS_AT, WORK_AT, Question, Template
from predictor.places import Floats, Ids, Place, PlaceColumns, Singles

#: Templates remembered for each list of pool types.
TEMPLATE_COUNT_MAX = 2048
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Gathered:
    """Questions, each on every pool type in turn.

    Attributes:
        numbers: Numeric keys by question, as trees see them, (n, n_numbers).
        references_s: Reference seconds by question, (n,).
        place_ids: Numbers of places by question and pool type, (n, n_pools); below 0 where too few
            runs are known.
    """

    numbers: Singles
    references_s: Floats
    place_ids: Ids


class TemplateColumns:
    """Templates on some pool types, as one state of a tree knows them."""

    def __init__(
        self,
        pool_types: Sequence[str],
        edges: Floats,
        place_of: Callable[[Template, str], Place | None],
    ) -> None:
        """Remember nothing yet.

        Args:
            pool_types: That each template is asked for.
            edges: Of the tree's partition.
            place_of: Tells what trees know of a template on a pool type, if anything.
        """
        self._pool_types = pool_types
        self._edges = edges
        self._place_of = place_of
        self._ids: dict[Template, int] = {}
        self._numbers: Singles = np.zeros((0, 0), dtype=np.float32)
        #: Of each template, its pace, `least_s` and `gpu_count`.
        self._factors: Floats = np.zeros((0, 6))
        self._place_ids: Ids = np.zeros((0, len(pool_types)), dtype=np.intp)
        self._places: PlaceColumns | None = None

    def gather(self, questions: Sequence[Question]) -> Gathered:
        """Return `questions`, at least one."""
        templates, token_counts = zip(*questions, strict=True)
        found = list(map(self._ids.get, templates))
        if None in found:
            self._remember(templates)
            found = list(map(self._ids.get, templates))
        ids = np.array(found, dtype=np.intp)
        tokens = np.array(token_counts, dtype=np.float64)
        epochs, sizes, batch_s, of_gpus, least_s, gpu_counts = self._factors.take(ids, axis=0).T
        # In the order of `reference_at`, so that rounding is the same.
        references_s = np.maximum(tokens * epochs / sizes * batch_s * of_gpus, least_s) / gpu_counts
        numbers = self._numbers.take(ids, axis=0)
        numbers[:, WORK_AT] = np.log(references_s)
        numbers[:, TOKENS_AT] = np.log1p(tokens)
        return Gathered(numbers, references_s, self._place_ids.take(ids, axis=0))

    @property
    def places(self) -> PlaceColumns:
        """Places by number; there is at least one."""
        assert self._places is not None
        return self._places

    def _remember(self, templates: Sequence[Template]) -> None:
        new = [template for template in dict.fromkeys(templates) if template not in self._ids]
        if len(self._ids) + len(new) > TEMPLATE_COUNT_MAX:
            self._ids, self._places = {}, None
            new = list(dict.fromkeys(templates))
        place_count = 0 if self._places is None else len(self._places.depths)
        places: list[Place] = []
        place_ids = np.full((len(new), len(self._pool_types)), _UNKNOWN, dtype=np.intp)
        for ids, template in zip(place_ids, new, strict=True):
            for at, pool_type in enumerate(self._pool_types):
                place = self._place_of(template, pool_type)
                if place is not None:
                    ids[at] = place_count + len(places)
                    places.append(place)
        if places:
            columns = PlaceColumns.of(places, self._edges)
            self._places = columns if self._places is None else self._places.and_also(columns)
        numbers = seen_numbers(np.array([template.numbers for template in new]))
        factors = np.array([_factors(template) for template in new])
        if self._ids:
            numbers = np.concatenate((self._numbers, numbers))
            factors = np.concatenate((self._factors, factors))
            place_ids = np.concatenate((self._place_ids, place_ids))
        self._numbers, self._factors, self._place_ids = numbers, factors, place_ids
        self._ids |= {template: at for at, template in enumerate(new, len(self._ids))}


def _factors(template: Template) -> tuple[float, ...]:
    pace = template.pace
    return (
        *(pace.epoch_count, pace.batch_token_count, pace.batch_s, float(pace.gpu_count)),
        *(template.least_s, float(template.gpu_count)),
    )
