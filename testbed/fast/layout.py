"""Everything that the compiled core knows, as arrays: records, with indices for names.

A site, an artifact and a task are their positions in the instance; an absent one is -1. Instants
are world seconds since the epoch, sizes bytes, money $, carbon g, as everywhere.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcos.durations import LEVELS
from site_agent.demand import RATE_H
from site_agent.participant import RUN_COUNT_MAX
from site_agent.schedule import HELD_COUNT_MAX

Records = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: GPUs over time; half as wide, so that twice as many are counted at once.
Counts = NDArray[np.int32]

#: Holders of an artifact are the bits of one integer.
SITE_COUNT_MAX: Final = 64
#: Levels of a run time with both ends, and its slices of equal mass.
KNOT_COUNT: Final = len(LEVELS) + 2
SLICE_COUNT: Final = 20
#: Runs of one site: those that it accepts, and as many whose report is under way.
RUN_SLOT_COUNT: Final = 2 * RUN_COUNT_MAX
HELD_SLOT_COUNT: Final = HELD_COUNT_MAX
#: Classes of runs, by GPUs and by length, for each of which a plan's first room is remembered.
SIZE_CLASS_COUNT: Final = 4
LENGTH_CLASS_COUNT: Final = 4
HINT_COUNT: Final = SIZE_CLASS_COUNT * LENGTH_CLASS_COUNT
#: A plan is kept as it was after each so many of those that wait; the first has none of them.
KEPT_STRIDE: Final = 32
KEPT_COUNT: Final = RUN_SLOT_COUNT // KEPT_STRIDE + 1
#: Numbers that are looked at in one go.
LANES: Final = 64
#: Steps of such a plan: the present one, two edges for each run, and as many as are looked at and
#: moved behind the last.
STEP_COUNT: Final = 2 * RUN_SLOT_COUNT + 1 + 2 * LANES
#: Pulls of one site in a day.
SPENT_SLOT_COUNT: Final = 4_096
RATE_COUNT: Final = len(RATE_H)
#: Priorities of events, and how many of each may be due at an instant before the heap takes them.
PRIORITY_COUNT: Final = 3
SOON_COUNT: Final = 1_024
#: Room that must be left before an event is handled.
HEAP_MARGIN: Final = 8_192
LOG_MARGIN: Final = 8_192

# Signals.
PRICE: Final = 0
CARBON: Final = 1

# States of a cache entry.
ABSENT: Final = 0
RESERVED: Final = 1
COMPLETE: Final = 2

# What a run is at.
FREE: Final = 0
LEASED: Final = 1
STAGING: Final = 2
RUNNING: Final = 3
COMMITTING: Final = 4
REPORTED: Final = 5

# Why a run ended.
SUCCEEDED: Final = 0
PREDICTED_LATE: Final = 1
RETURNED: Final = 2
LOST: Final = 3

# Kinds of lines in the log.
TRANSFER: Final = 0
EVICT: Final = 1
RUN: Final = 2
ABORT: Final = 3

# Why `advance` came back.
DONE: Final = 0
HOUR: Final = 1
LOG_FULL: Final = 2
HEAP_FULL: Final = 3
FAILED_REJECTED: Final = 4
FAILED_SLOTS: Final = 5
FAILED_IN_USE: Final = 6
PLAN: Final = 7
TOLD_FULL: Final = 8

# Where the hour's beat stands.
NO_BEAT: Final = 0
BEAT_BEGINS: Final = 1
BEAT_ENDS: Final = 2

# Migrators, evictors and bidders, by number.
MIGRATORS: Final = ("none", "regret", "popularity")
REGRET: Final = 1
POPULARITY: Final = 2
EVICTORS: Final = ("value", "lru", "lfu", "gdsf")
VALUE: Final = 0
LRU: Final = 1
LFU: Final = 2
GDSF: Final = 3
RULES: Final = (
    "joint",
    "random",
    "round-robin",
    "local",
    "least-loaded",
    "cost-greedy",
    "carbon-greedy",
    "locality",
    "joint-lookahead",
    "wait-local",
    "wait-best",
)
JOINT: Final = 0
RANDOM: Final = 1
ROUND_ROBIN: Final = 2
LOCAL: Final = 3
LEAST_LOADED: Final = 4
COST_GREEDY: Final = 5
CARBON_GREEDY: Final = 6
LOCALITY: Final = 7
JOINT_LOOKAHEAD: Final = 8
WAIT_LOCAL: Final = 9
WAIT_BEST: Final = 10


def _dtype(*fields: Any) -> np.dtype[Any]:
    return np.dtype(list(fields), align=True)


#: `_N` is for what there is one of for each task: it decides how memory grows.
_F, _I, _N = "f8", "i8", "i4"

GLOBALS: Final = _dtype(
    ("now_s", _F),
    ("start_s", _F),
    ("measured_from_s", _F),
    ("measured_until_s", _F),
    ("last_end_s", _F),
    ("joining_count", _I),
    ("carbon_price", _F),
    ("kappa", _F),
    ("storage_usd_per_gb_h", _F),
    ("counts_gpu_hours", _I),
    ("shares_bandwidth", _I),
    ("site_count", _I),
    ("artifact_count", _I),
    ("task_count", _I),
    ("left_count", _I),
    ("event_count", _I),
    ("auction_count", _I),
    ("reauction_count", _I),
    ("sequence", _I),
    ("heap_count", _I),
    ("soon_first", _I, (PRIORITY_COUNT,)),
    ("soon_end", _I, (PRIORITY_COUNT,)),
    ("log_count", _I),
    ("beat", _I),
    ("is_begun", _I),
    ("plans_copies", _I),
    ("gives_back_late", _I),
    ("evictor", _I),
    ("rule", _I),
    ("migrator", _I),
    ("is_shared_cache", _I),
    ("failed_task", _I),
    ("failure", _I),
    ("free_run_count", _I),
    ("free_flow_count", _I),
    ("noticed_after_s", _F),
    ("defer_saving", _F),
    ("defer_late", _F),
    ("late_max", _F),
    ("backfill_factor", _F),
    ("reauction_count_max", _I),
    ("reauction_usd", _F),
    ("regret_ratio", _F),
    ("credit_s", _F),
    ("popular_uses", _F),
    ("budget_bytes", _F),
    ("budget_usd", _F),
    ("budget_gco2", _F),
    ("best_with_copies_usd", _F),
    ("elsewhere_weight", _F),
    # The learned bidder, and how it explores: 0 is not at all.
    ("has_actor", _I),
    ("residual_scale", _F),
    ("temperature", _F),
    ("exploration_seed", _I),
    ("is_told", _I),
    ("told_count", _I),
    ("cluster_price", _F),
    ("cluster_carbon", _F),
)
SITE: Final = _dtype(
    ("gpu_count", _I),
    ("type", _I),
    ("active_kw", _F),
    ("idle_kw", _F),
    ("pue", _F),
    ("usd_per_gpu_h", _F),
    ("speed", _F),
    ("is_here", _I),
    ("is_draining", _I),
    ("noticed_s", _F),
    ("awarded_count", _I),
    ("run_count", _I),
    ("unconfirmed_count", _I),
    ("queue_count", _I),
    ("held_count", _I),
    ("pull_count", _I),
    ("spent_first", _I),
    ("spent_count", _I),
    # GPUs of those that run, and of those that wait.
    ("busy_count", _I),
    ("waiting_count", _I),
    ("demand_now_s", _F),
    ("parked", _I),
    ("active_count", _I),
    ("out_first", _I),
    ("out_last", _I),
    ("out_count", _I),
    ("in_first", _I),
    ("in_last", _I),
    ("in_count", _I),
    # The plan of those that run and of the first `planned_count` that wait, as of `plan_s`.
    ("plan_s", _F),
    ("plan_count", _I),
    ("planned_count", _I),
    ("running_count", _I),
)
CACHE: Final = _dtype(("capacity", _I), ("used", _I), ("evicted", _I), ("inflation", _F))
LINK: Final = _dtype(
    ("rtt_s", _F),
    ("bytes_per_s", _F),
    ("egress", _F),
    ("zone_rtt_s", _F),
    ("zone_bytes_per_s", _F),
    ("zone_egress", _F),
    ("is_renewing", _I),
    # Unfinished runs that the source has of the target's tasks.
    ("run_count", _I),
)
SERIES: Final = _dtype(("start_s", _F), ("base", _I), ("count", _I))
ARTIFACT: Final = _dtype(("size_bytes", _I), ("kind", _I), ("home", _I), ("holders", "u8"))
TASK: Final = _dtype(
    ("arrival_s", _F),
    ("deadline_s", _F),
    ("predicted_s", _F),
    ("work_s", _F),
    ("penalty_usd", _F),
    ("penalty_usd_per_h", _F),
    ("penalty_cap_h", _F),
    ("origin", _N),
    ("model", _N),
    ("data", _N),
    ("gpu_count", _N),
    ("sigma", _N),
    ("rank", _N),
    ("due_s", _F),
    ("auction_count", _N),
    ("attempt", _N),
    ("has_bid", _N),
    ("next_parked", _N),
    ("site", _N),
    ("winning_usd", _F),
    ("hold_start_s", _F),
    ("hold_end_s", _F),
    # What became of it: J of its runs, of the transfers for them and of being late; when what it
    # needed was there, when it began and ended.
    ("joint_usd", _F),
    ("staged_s", _F),
    ("began_s", _F),
    ("ended_s", _F),
)
ENTRY: Final = _dtype(
    ("state", _I),
    ("last_used_s", _F),
    ("pin_count", _I),
    ("reader_count", _I),
    ("use_count", _I),
    ("refetch_usd", _F),
    ("mark", _F),
    ("copy_since_s", _F),
    ("demand", _F),
    ("demand_at_s", _F),
    ("paces", _F, (RATE_COUNT,)),
    ("elsewhere", _F),
    # What migration knows: the price of bringing it by the latest announcement, and its credit.
    ("is_known", _I),
    ("known_usd", _F),
    ("known_egress_usd", _F),
    ("known_gco2", _F),
    ("is_pulled", _I),
    ("credit_usd", _F),
    ("credit_at_s", _F),
    ("first_waiter", _I),
    ("last_waiter", _I),
)
RUN_SLOT: Final = _dtype(
    ("task", _I),
    ("site", _I),
    ("state", _I),
    ("outcome", _I),
    ("generation", _I),
    ("gpu_count", _I),
    ("latest_start_s", _F),
    ("accepted_s", _F),
    ("ready_s", _F),
    ("started_s", _F),
    ("p50_s", _F),
    # By size and length: `steps.class_of`.
    ("known", _I),
    ("accepted_penalty_usd", _F),
    ("is_confirmed", _I),
    ("is_staged", _I),
    ("is_staging", _I),
    ("is_executing", _I),
    ("start_order", _I),
    ("planned_s", _F),
    # Bits of its needs: 1 the model, 2 the data set.
    ("pinned", _I),
    ("in_scratch", _I),
    ("waited", _I),
    ("waits_for", _I),
    ("next_waiter", _I),
)
HELD: Final = _dtype(
    ("task", _I), ("gpu_count", _I), ("start_s", _F), ("end_s", _F), ("until_s", _F)
)
FLOW: Final = _dtype(
    ("source", _I),
    ("target", _I),
    ("artifact", _I),
    ("task", _I),
    ("run", _I),
    ("run_generation", _I),
    ("is_stored", _I),
    ("is_read_from_cache", _I),
    ("begun_s", _F),
    ("bytes_per_s", _F),
    ("left_bytes", _F),
    ("updated_s", _F),
    ("rate", _F),
    ("version", _I),
    ("out_next", _I),
    ("out_previous", _I),
    ("in_next", _I),
    ("in_previous", _I),
)
EVENT: Final = _dtype(("time_s", _F), ("key", _I), ("kind", _I), ("a", _I), ("b", _I))
LINE: Final = _dtype(
    ("begin_s", _F),
    ("end_s", _F),
    ("kind", _I),
    ("site", _I),
    ("source", _I),
    ("artifact", _I),
    ("task", _I),
    ("is_stored", _I),
)
BID: Final = _dtype(
    ("is_bid", _I),
    # Its start is not chosen yet: `value` is the least that it could be.
    ("is_open", _I),
    ("ready_s", _F),
    # By what the rule compares sites, without and with what decides between equals.
    ("value", _F),
    ("score", _F),
    ("offer_usd", _F),
    ("start_s", _F),
    ("is_deferred", _I),
    ("p50_finish_s", _F),
    ("fetch_s", _F),
    ("transfer_usd", _F),
    ("network_gco2", _F),
    ("fetch_bytes", _I),
    # J of fetching each of its needs; below 0: it is not fetched.
    ("part_usd", _F, (2,)),
    # What a learned bidder sees beside that, and its score: of the offer alone, corrected, and
    # (`value`) with noise.
    ("is_fetched", _I, (2,)),
    ("energy_usd", _F),
    ("gpu_usd", _F),
    ("penalty_usd", _F),
    ("compute_gco2", _F),
    ("late_probability", _F),
    ("base", _F),
    ("plain", _F),
)
TOLD: Final = _dtype(
    ("at_s", _F), ("task", _I), ("site", _I), ("logprob", _F), ("reference_usd", _F)
)
SPENT: Final = _dtype(("at_s", _F), ("bytes", _F), ("usd", _F), ("gco2", _F))
CHURN: Final = _dtype(("at_s", _F), ("is_leave", _I), ("site", _I), ("keeps_caches", _I))


class State(NamedTuple):
    """All arrays of a run. Some hold the world and do not change, the others are what happens.

    `g` has one record; `sites` (n,), `caches` (n, 2: models, data), `links` (n, n) by source and
    target, `artifacts` (m,), `tasks` (k,), `entries` (n, m), `runs` (r,), `knots` (r, 21): ln of
    the run time's quantiles. `spent` (n, p) tells of pulls, from `sites.spent_first`
    on, round and round. `site_runs` and `queues` (n, r) hold slots of live runs in order of
    acceptance, and of those that wait in order of urgency; `held` (n, h). `running` (n, r) holds
    slots of those that run, in the order of their predicted ends when these were worked out last.

    `heap` (e,) are the events to come, `soon` (3, 1024) those due now, by priority.

    Plans of pools (`plan.py`): `plan_times` and `plan_free` (n, k + 1, s), in the last row as they
    are and before it as they were, with `kept_count` (n, k) steps; `after` (n, c) is that of
    `steps.place`.

    `truth` and `truth_sum` (2, n, hours) are signals and their running integrals, `issued` and
    `issued_sum` (2, n, 241) the present forecast from hour `issues[...].base` on; `least_issued`
    (2, n) its least value.

    `seen` (n, 24) are the features of the bids for one task; `shift` to `bias_3` the network of the
    learned bidder, `hidden_1` (n, h1), `pooled` and `hidden_2` what its layers come to. `told`
    (t,), `told_offers` (t, n), infinite where a site does not bid, and `told_features` (t, n, 24)
    are what a run that explores tells of its auctions.

    By spread of run times: `quantile_ratio` (s, 19), `slice_ratio` (s, 20) with its mean
    `mean_ratio` (s,), and `slice_ln` (s, 21), each in terms of the median.
    """

    g: Records
    sites: Records
    caches: Records
    links: Records
    series: Records
    issues: Records
    truth: Floats
    truth_sum: Floats
    issued: Floats
    issued_sum: Floats
    least_issued: Floats
    artifacts: Records
    tasks: Records
    task_text: NDArray[np.uint8]
    site_text: NDArray[np.uint8]
    type_speed: Floats
    levels: Floats
    quantile_ratio: Floats
    slice_ratio: Floats
    mean_ratio: Floats
    slice_ln: Floats
    entries: Records
    runs: Records
    knots: Floats
    free_runs: Ints
    site_runs: Ints
    queues: Ints
    running: Ints
    plan_times: Floats
    plan_free: Counts
    kept_count: Ints
    after: Counts
    held: Records
    flows: Records
    free_flows: Ints
    heap: Records
    soon: Records
    lines: Records
    sums: Floats
    lookups: Ints
    bids: Records
    times: Floats
    free: Ints
    order: Ints
    ends: Floats
    spent: Records
    churn: Records
    seen: NDArray[np.float32]
    shift: Floats
    gain: Floats
    weight_1: Floats
    bias_1: Floats
    weight_2: Floats
    bias_2: Floats
    weight_all: Floats
    weight_3: Floats
    bias_3: Floats
    hidden_1: Floats
    pooled: Floats
    hidden_2: Floats
    told: Records
    told_offers: Floats
    told_features: NDArray[np.float32]


#: Item and number of dimensions of each array of `State`.
FIELDS: Final[dict[str, tuple[np.dtype[Any], int]]] = {
    "g": (GLOBALS, 1),
    "sites": (SITE, 1),
    "caches": (CACHE, 2),
    "links": (LINK, 2),
    "series": (SERIES, 2),
    "issues": (SERIES, 2),
    "truth": (np.dtype(np.float64), 3),
    "truth_sum": (np.dtype(np.float64), 3),
    "issued": (np.dtype(np.float64), 3),
    "issued_sum": (np.dtype(np.float64), 3),
    "least_issued": (np.dtype(np.float64), 2),
    "artifacts": (ARTIFACT, 1),
    "tasks": (TASK, 1),
    "task_text": (np.dtype(np.uint8), 2),
    "site_text": (np.dtype(np.uint8), 2),
    "type_speed": (np.dtype(np.float64), 1),
    "levels": (np.dtype(np.float64), 1),
    "quantile_ratio": (np.dtype(np.float64), 2),
    "slice_ratio": (np.dtype(np.float64), 2),
    "mean_ratio": (np.dtype(np.float64), 1),
    "slice_ln": (np.dtype(np.float64), 2),
    "entries": (ENTRY, 2),
    "runs": (RUN_SLOT, 1),
    "knots": (np.dtype(np.float64), 2),
    "free_runs": (np.dtype(np.int64), 1),
    "site_runs": (np.dtype(np.int64), 2),
    "queues": (np.dtype(np.int64), 2),
    "running": (np.dtype(np.int64), 2),
    "plan_times": (np.dtype(np.float64), 3),
    "plan_free": (np.dtype(np.int32), 3),
    "kept_count": (np.dtype(np.int64), 2),
    "after": (np.dtype(np.int32), 2),
    "held": (HELD, 2),
    "flows": (FLOW, 1),
    "free_flows": (np.dtype(np.int64), 1),
    "heap": (EVENT, 1),
    "soon": (EVENT, 2),
    "lines": (LINE, 1),
    "sums": (np.dtype(np.float64), 3),
    "lookups": (np.dtype(np.int64), 3),
    "bids": (BID, 1),
    "times": (np.dtype(np.float64), 1),
    "free": (np.dtype(np.int64), 1),
    "order": (np.dtype(np.int64), 1),
    "ends": (np.dtype(np.float64), 1),
    "spent": (SPENT, 2),
    "churn": (CHURN, 1),
    "seen": (np.dtype(np.float32), 2),
    "shift": (np.dtype(np.float64), 1),
    "gain": (np.dtype(np.float64), 1),
    "weight_1": (np.dtype(np.float64), 2),
    "bias_1": (np.dtype(np.float64), 1),
    "weight_2": (np.dtype(np.float64), 2),
    "bias_2": (np.dtype(np.float64), 1),
    "weight_all": (np.dtype(np.float64), 2),
    "weight_3": (np.dtype(np.float64), 1),
    "bias_3": (np.dtype(np.float64), 1),
    "hidden_1": (np.dtype(np.float64), 2),
    "pooled": (np.dtype(np.float64), 1),
    "hidden_2": (np.dtype(np.float64), 1),
    "told": (TOLD, 1),
    "told_offers": (np.dtype(np.float64), 2),
    "told_features": (np.dtype(np.float32), 3),
}
