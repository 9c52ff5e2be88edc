"""All policies by name: what agents run and what reports compare. Pure.

A policy is what may differ between two runs of one world: who bids how, whether waiting tasks are
announced again, which copies are pulled ahead of need. Queue, caches, choice of source and eviction
are the same for all.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from gcos.errors import InvalidRequestError
from policies.baselines import rules
from policies.baselines.joint import JointBidder, LookaheadBidder
from policies.baselines.rules import RuleBidder
from policies.interface import Bidder, Dispatcher, Migrator
from policies.migrators import NoMigrator, Popularity, Regret

if TYPE_CHECKING:
    import numpy as np

DEFAULT: Final = "maccs"
"""What live agents run unless told otherwise."""
CENTRAL: Final = "central"
"""The ablation whose task actor sees all candidates at once; also the part that it has learned."""


class Foresight(Enum):
    """What a copy plan is made from."""

    REMEMBERED = "remembered"
    """What was submitted of late is expected again."""
    TRUE = "true"
    """What will be submitted is known: in evaluations alone, as a yardstick."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy.

    Attributes:
        name: As people type it.
        summary: What it does, in one line.
        bidder: Makes the bidder of one site.
        gives_back_late: A waiting run predicted to be late is announced again (DESIGN 7 B).
        migrator: Makes what decides which copies one site pulls ahead of need.
        dispatcher: Makes what chooses between offers for a batch of tasks, given a source of
            chance; None: each task goes to the best offer at once. Agents know no batches.
        foresight: What the sites plan copies from, once an hour; None: they make no plan (DESIGN
            7 F).
        learned: Parts that have an actor, by the names of their files (`policies.maccs.actor`).
    """

    name: str
    summary: str
    bidder: Callable[[], Bidder]
    gives_back_late: bool = False
    migrator: Callable[[], Migrator] = NoMigrator
    dispatcher: "Callable[[np.random.Generator], Dispatcher] | None" = None
    foresight: Foresight | None = None
    learned: tuple[str, ...] = ()

    @property
    def is_live(self) -> bool:
        """Whether agents can run it: none of them sees all sites at once or knows the future."""
        return self.dispatcher is None and not self.is_clairvoyant and not self.is_central

    @property
    def is_central(self) -> bool:
        """Whether the offers of all sites for a task are ranked by one network that sees all."""
        return CENTRAL in self.learned

    @property
    def is_clairvoyant(self) -> bool:
        """Whether it is told what is to come."""
        return self.foresight is Foresight.TRUE


_in_time = rules.in_time_first


def _rule(name: str, summary: str, score: rules.Score, *, waits: bool = False) -> Policy:
    return Policy(name, summary, lambda: RuleBidder(name, score, waits=waits))


# Agents know no batches, so they need not wait for what assigns them.
def _genetic(draws: "np.random.Generator") -> Dispatcher:
    from policies.baselines.genetic import GeneticDispatcher  # noqa: PLC0415

    return GeneticDispatcher(draws)


def _milp(_draws: "np.random.Generator") -> Dispatcher:
    from policies.baselines.milp import MilpDispatcher  # noqa: PLC0415

    return MilpDispatcher()


#: The default; a policy that lacks one of its parts is named `maccs-PART`.
_MACCS: Final = Policy(
    DEFAULT,
    "plan, corrected by what was learned as far as the ship gate lets it",
    JointBidder,
    gives_back_late=True,
    migrator=Regret,
    foresight=Foresight.REMEMBERED,
    learned=("artifact", "task"),
)

POLICIES: Final = {
    policy.name: policy
    for policy in (
        _rule("random", "a site drawn uniformly", rules.random),
        _rule("round-robin", "the site with the fewest awards so far", rules.round_robin),
        _rule("local", "where the task was submitted", rules.local),
        _rule("least-loaded", "the least backlog per GPU", rules.least_loaded),
        _rule("cost-greedy", "the cheapest electricity for the run", _in_time(rules.energy_cost)),
        _rule("carbon-greedy", "the least carbon for the run", _in_time(rules.run_carbon)),
        _rule("locality", "the fewest bytes to fetch", _in_time(rules.missing_data)),
        _rule("wait-local", "at home, when greenest", rules.local, waits=True),
        _rule(
            "wait-best", "anywhere, at the greenest hour", _in_time(rules.run_carbon), waits=True
        ),
        Policy("joint", "the least exact marginal J, at once", JointBidder),
        Policy("joint-lookahead", "the least J over later starts too", LookaheadBidder),
        Policy(
            "joint+reauction",
            "joint; waiting tasks that would be late are announced again",
            JointBidder,
            gives_back_late=True,
        ),
        Policy(
            "joint+regret",
            "joint; copies are pulled where their lack has cost auctions",
            JointBidder,
            migrator=Regret,
        ),
        Policy(
            "joint+popularity",
            "joint; copies are pulled of what is used much elsewhere",
            JointBidder,
            migrator=Popularity,
        ),
        Policy(
            "rule",
            "joint+reauction with regret migration: the best rule we know",
            JointBidder,
            gives_back_late=True,
            migrator=Regret,
        ),
        Policy(
            "rule+task",
            "rule; offers are corrected by what was learned as far as the ship gate lets it",
            JointBidder,
            gives_back_late=True,
            migrator=Regret,
            learned=("task",),
        ),
        Policy(
            "genetic",
            "joint's offers, assigned in batches of 15 min by a genetic algorithm",
            JointBidder,
            dispatcher=_genetic,
        ),
        Policy(
            "milp",
            "joint's offers, assigned in batches of 15 min by a mixed-integer programme",
            JointBidder,
            dispatcher=_milp,
        ),
        Policy(
            "plan",
            "rule; once an hour all sites plan copies from remembered demand",
            JointBidder,
            gives_back_late=True,
            migrator=Regret,
            foresight=Foresight.REMEMBERED,
        ),
        Policy(
            "plan+task",
            "plan; offers are corrected by what was learned as far as the ship gate lets it",
            JointBidder,
            gives_back_late=True,
            migrator=Regret,
            foresight=Foresight.REMEMBERED,
            learned=("task",),
        ),
        _MACCS,
        replace(
            _MACCS,
            name="maccs-reauction",
            summary="maccs without re-auction: tasks that would be late wait where they are",
            gives_back_late=False,
        ),
        replace(
            _MACCS,
            name="maccs-regret",
            summary="maccs without regret migration: only the plan pulls copies ahead of need",
            migrator=NoMigrator,
        ),
        replace(
            _MACCS,
            name=CENTRAL,
            summary="maccs, its offers ranked by a network that sees all of them: an ablation, in"
            " evaluations only",
            learned=("artifact", CENTRAL),
        ),
        Policy(
            "oracle-demand",
            "plan, given the true demand of the next two days: a yardstick, in evaluations only",
            JointBidder,
            gives_back_late=True,
            migrator=Regret,
            foresight=Foresight.TRUE,
        ),
    )
}


def policy_named(name: str, *, field: str = "policy") -> Policy:
    """Return the policy of that name.

    Raises:
        InvalidRequestError: There is none; the hint names the nearest.
    """
    policy = POLICIES.get(name)
    if policy is None:
        near = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(POLICIES)}"
        raise InvalidRequestError(f"no policy {name!r}", field=field, hint=hint)
    return policy
