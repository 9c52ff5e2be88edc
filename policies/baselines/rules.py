"""The rules that people use, as bidders: what every report compares with. Pure.

Each gives its site a score; the lowest score of all sites wins, and a tie goes by a hash of task
and site, so that no order of names is favoured and nothing but the rule decides. All of them get
the same queue, caches, choice of source and eviction as `joint`.

    random         u(task, site), uniform                                         the usual floor
    round-robin    tasks awarded to the site so far             nginx, HAProxy `roundrobin`
    local          0 at the origin, 1 elsewhere                 a cluster of its own per region
    least-loaded   predicted GPU seconds of backlog per GPU     HAProxy `leastconn`, by work
    cost-greedy    E[energy $], in time first                   "follow the cheap power"
                   (Qureshi et al., SIGCOMM 2009)
    carbon-greedy  E[carbon of the run], g, in time first       "follow the green power"
                   (SustainCluster's rule)
    locality       GB to be fetched, in time first, then        delay scheduling's aim
                   the earlier start                            (Zaharia et al., EuroSys 2010)
    wait-local     `local`, at the start of lowest carbon       Wait Awhile
                   (Wiesner et al., Middleware 2021)
    wait-best      carbon-greedy over sites and starts          the same with free choice of site

*In time first*: an option that is late with a probability above `LATE_MAX` comes after all that are
not. Without it the greedy rules pile everything on one site and miss most deadlines; a baseline
that nobody would run proves nothing.
"""

import hashlib
from collections.abc import Callable, Sequence

from gcos.accounting import BYTES_PER_GB
from policies.interface import Choice, Option, SiteView

Score = Callable[[Option, SiteView], float]

#: Weight of the tie-break: below any difference that a rule means.
TIE = 1e-9
#: Weight of an hour's later start beside a GB to be fetched.
START_TIE = 1e-6

#: Probability of being late above which an option is taken only where there is no other.
LATE_MAX = 0.03
#: Above any score that a rule gives.
LAST = 1e9

_HASH_RANGE = 2.0**64


def uniform(view: SiteView) -> float:
    """Return a number in [0, 1) that task and site determine, the same in every process."""
    digest = hashlib.blake2b(f"{view.task_id}/{view.site_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _HASH_RANGE


def random(option: Option, view: SiteView) -> float:
    """Return a uniform draw."""
    del option
    return uniform(view)


def round_robin(option: Option, view: SiteView) -> float:
    """Return how many tasks the site has been awarded."""
    del option
    return float(view.awarded_count)


def local(option: Option, view: SiteView) -> float:
    """Return 0 at the origin and 1 elsewhere: others only where the origin has no such GPUs."""
    del option
    return 0.0 if view.is_origin else 1.0


def least_loaded(option: Option, view: SiteView) -> float:
    """Return the backlog, s."""
    del option
    return view.backlog_s


def energy_cost(option: Option, view: SiteView) -> float:
    """Return the expected price of the run's electricity, $."""
    del view
    return option.charge.energy_usd


def run_carbon(option: Option, view: SiteView) -> float:
    """Return the expected carbon of the run, g."""
    del view
    return option.charge.compute_gco2


def missing_data(option: Option, view: SiteView) -> float:
    """Return the GB to be fetched; of equal ones the earlier start is better."""
    wait_h = max(0.0, option.start_s - view.now_s) / 3600
    return option.charge.transfer_bytes / BYTES_PER_GB + START_TIE * wait_h


def in_time_first(score: Score) -> Score:
    """Return the rule that takes what would be late only where nothing else is left."""

    def ranked(option: Option, view: SiteView) -> float:
        is_late = option.late_probability > LATE_MAX
        return score(option, view) + (LAST * option.late_probability if is_late else 0.0)

    return ranked


class RuleBidder:
    """Chooses by one rule, at the earliest start or at the one of lowest carbon."""

    needs_features = False

    def __init__(self, name: str, score: Score, *, waits: bool = False) -> None:
        self.actor = f"{name}/1"
        self.may_start_later = waits
        self._score = score

    def choose(self, options: Sequence[Option], view: SiteView) -> Choice:
        """Choose among `options`, which are never empty."""
        rank = _GREENEST if self.may_start_later else self._score
        index = min(
            range(len(options)), key=lambda i: (rank(options[i], view), options[i].start_s, i)
        )
        return Choice(index, self._score(options[index], view) + TIE * uniform(view))


_GREENEST = in_time_first(run_carbon)
