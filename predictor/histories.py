"""What a row's contexts and categories lately said, as numbers that trees can split on. Pure.

Five numbers for each context and category: the mean of ln t with slow and with fast forgetting, the
newest ln t, the usual distance from the slow mean, and ln of the runs known. Means are shrunk
towards the context above (towards "all" for a category), as in target encoding (Micci-Barreca 2001,
eq. 3), and only know runs that had ended.
"""

import copy
import math
from collections import OrderedDict, deque
from collections.abc import Iterator

from predictor.records import Row

#: Numbers told for each context and category.
HISTORY_COUNT = 5
SLOW_DECAY = 0.98
FAST_DECAY = 0.7
SPREAD_DECAY = 0.95
#: Pseudo-counts of what lies above in a mean.
PRIOR_COUNT = 3.0

#: Least runs of a context whose newest runs tell the typical time.
TYPICAL_COUNT_MIN = 5
#: Newest runs whose median may be typical; where times come in long waves, more are better.
TYPICAL_COUNTS = (5, 15, 60, 250)
#: An error of ln t counts up to this: what is told is a median, not a mean.
TYPICAL_ERROR_MAX = 0.5
TYPICAL_RATE = 0.002

Name = tuple[str, ...] | tuple[int, str]


class _History:
    __slots__ = (
        "count",
        "fast_count",
        "fast_sum",
        "newest",
        "newest_values",
        "slow_count",
        "slow_sum",
        "spread",
    )

    def __init__(self) -> None:
        self.count = 0
        self.slow_count = self.slow_sum = 0.0
        self.fast_count = self.fast_sum = 0.0
        self.newest = 0.0
        self.spread = 1.0
        self.newest_values: deque[float] = deque(maxlen=TYPICAL_COUNTS[-1])

    def copied(self) -> "_History":
        """Return an independent copy."""
        other = copy.copy(self)
        other.newest_values = self.newest_values.copy()
        return other


class Histories:
    """Recent ln t by context and category."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        #: Mean error of the median of so many newest runs, lately, by `TYPICAL_COUNTS`.
        self._typical_errors = [1.0] * len(TYPICAL_COUNTS)
        self._by_name: OrderedDict[Name, _History] = OrderedDict()

    def copy(self) -> "Histories":
        """Return an independent copy."""
        other = copy.copy(self)
        other._typical_errors = self._typical_errors.copy()
        other._by_name = OrderedDict(
            (name, history.copied()) for name, history in self._by_name.items()
        )
        return other

    @property
    def state_bytes(self) -> int:
        """8 numbers and the newest values of each."""
        values = sum(len(history.newest_values) for history in self._by_name.values())
        return 8 * (8 * len(self._by_name) + values)

    def features(self, row: Row) -> list[float]:
        """Return `HISTORY_COUNT` numbers for "all", each context and each category."""
        told: list[float] = []
        slow = fast = newest = 0.0
        spread = 1.0
        top = (slow, fast, newest, spread)
        for depth in range(len(row.contexts) + 1):
            history = self._by_name.get(row.contexts[:depth])
            if history is None:
                told += (slow, fast, newest, spread, 0.0)
            else:
                slow = (history.slow_sum + PRIOR_COUNT * slow) / (history.slow_count + PRIOR_COUNT)
                fast = (history.fast_sum + slow) / (history.fast_count + 1)
                newest = history.newest
                spread = history.spread
                told += (slow, fast, newest, spread, math.log1p(history.count))
            if depth == 0:
                top = (slow, fast, newest, spread)
        for column, category in enumerate(row.categories):
            history = self._by_name.get((column, category))
            slow, fast, newest, spread = top
            if history is None:
                told += (slow, fast, newest, spread, 0.0)
            else:
                slow = (history.slow_sum + PRIOR_COUNT * slow) / (history.slow_count + PRIOR_COUNT)
                fast = (history.fast_sum + slow) / (history.fast_count + 1)
                told += (slow, fast, history.newest, history.spread, math.log1p(history.count))
        return told

    def typicals(self, row: Row) -> tuple[float, ...]:
        """Return the median ln t of the deepest context with `TYPICAL_COUNT_MIN` runs.

        One for each of `TYPICAL_COUNTS`; none where no context has so many runs.
        """
        for depth in range(len(row.contexts), -1, -1):
            history = self._by_name.get(row.contexts[:depth])
            if history is not None and history.count >= TYPICAL_COUNT_MIN:
                return tuple(_medians(list(history.newest_values)))
        return ()

    def typical_s(self, typicals: tuple[float, ...]) -> float | None:
        """Return e to that of `typicals` which has lately come nearest, or None."""
        if not typicals:
            return None
        errors = self._typical_errors
        return math.exp(typicals[min(range(len(errors)), key=errors.__getitem__)])

    def judge(self, typicals: tuple[float, ...], ln_s: float) -> None:
        """Compare what was told of a run with what happened."""
        for index, typical in enumerate(typicals):
            error = min(abs(typical - ln_s), TYPICAL_ERROR_MAX)
            self._typical_errors[index] += TYPICAL_RATE * (error - self._typical_errors[index])

    def learn(self, row: Row, ln_s: float) -> None:
        """Add an ended run."""
        names: list[Name] = [(column, name) for column, name in enumerate(row.categories)]
        names += [row.contexts[:depth] for depth in range(len(row.contexts), -1, -1)]
        for name in names:
            history = self._by_name.get(name)
            if history is None:
                if len(self._by_name) >= self._count_max:
                    self._by_name.popitem(last=False)
                history = self._by_name[name] = _History()
            else:
                self._by_name.move_to_end(name)
            if history.count:
                distance = abs(ln_s - history.slow_sum / history.slow_count)
                history.spread += (1 - SPREAD_DECAY) * (distance - history.spread)
            history.count += 1
            history.slow_count = SLOW_DECAY * history.slow_count + 1
            history.slow_sum = SLOW_DECAY * history.slow_sum + ln_s
            history.fast_count = FAST_DECAY * history.fast_count + 1
            history.fast_sum = FAST_DECAY * history.fast_sum + ln_s
            history.newest = ln_s
            history.newest_values.append(ln_s)


def _medians(values: list[float]) -> Iterator[float]:
    """Yield the median of the newest of `values`, for each of `TYPICAL_COUNTS`."""
    told_count, told = 0, 0.0
    for count in TYPICAL_COUNTS:
        if told_count < len(values):  # else all are told
            told_count, told = count, _median(values[-count:])
        yield told


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
