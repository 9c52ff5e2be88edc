"""Copies pulled ahead of need: what a site's migrator wishes, and what the site can afford. Pure.

A *migrator* (`policies.interface`) says what a copy would be worth. This core tells it what it
needs (auctions lost, demand elsewhere) and lets a wish pass through the gate:

- the copy is neither here nor on its way, and fits its cache at all;
- what would be evicted for it is worth less than it (ungated migration costs 12 % with small
  caches: DESIGN section 7 C);
- the day's budget of bytes, money and carbon covers it, and few enough pulls are under way.

Every decision is kept with its why, the latest `DECISION_COUNT_MAX` of them; one that is refused
again within the hour is the same one.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from gcos.accounting import BYTES_PER_GB, G_PER_KG
from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Bid,
    Fetch,
    Refusal,
    Rejection,
    with_copies_usd,
)
from gcos.ids import ArtifactId, TaskId
from gcos.signals import HOUR_S
from policies.evictors import expected_saving_usd
from policies.interface import CachedItem, Loss, Migrator, Wish
from site_agent.dual_cache import DualCache

#: Offers remembered until their rejection arrives.
OFFER_COUNT_MAX: Final = 4_096
#: Artifacts of which the latest announcement is remembered.
NEED_COUNT_MAX: Final = 10_000
DECISION_COUNT_MAX: Final = 1_000
#: Pulls of one site at the same time.
PULL_COUNT_MAX: Final = 4
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What a site may spend on pulls in any 24 h of world time.

    Attributes:
        bytes_a_day: Bytes moved.
        usd_a_day: Egress.
        gco2_a_day: Network carbon.
    """

    bytes_a_day: int = 20 * 10**12
    usd_a_day: float = 1_000.0
    gco2_a_day: float = 1e6


@dataclass(frozen=True, slots=True)
class Pull:
    """Bring a copy here.

    Attributes:
        need: What, and who had it when it was last announced.
        why: In words.
        task_id: The task whose auction was lost last; None: the wish comes from elsewhere.
        without_learning: What would be decided without what was learned; empty: the same.
    """

    need: ArtifactNeed
    why: str
    task_id: TaskId | None = None
    without_learning: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a wish.

    Attributes:
        at_s: World instant.
        artifact_id: What was wished for.
        name: What people call it.
        is_granted: It is pulled.
        why: In words: the wish, and what spoke against it.
        task_id: The task whose auction was lost last; None: the wish comes from elsewhere.
        without_learning: What would be decided without what was learned; empty: the same.
    """

    at_s: float
    artifact_id: ArtifactId
    name: str
    is_granted: bool
    why: str
    task_id: TaskId | None = None
    without_learning: str = ""


@dataclass(frozen=True, slots=True)
class _Offer:
    """A bid that was made: its J with all copies in place, and the price of each transfer."""

    with_copies_usd: float
    transfers: tuple[tuple[ArtifactId, float], ...]


@dataclass(slots=True)
class Migration:
    """The migrations of one site."""

    cache: DualCache
    migrator: Migrator
    budget: Budget = field(default_factory=Budget)
    #: The latest decisions, oldest first.
    decisions: deque[Decision] = field(
        default_factory=lambda: deque[Decision](maxlen=DECISION_COUNT_MAX)
    )
    #: Decisions that nobody has been told of yet, oldest first.
    untold: deque[Decision] = field(
        default_factory=lambda: deque[Decision](maxlen=DECISION_COUNT_MAX)
    )
    #: Copies on their way.
    pulling: set[ArtifactId] = field(default_factory=set)
    _offers: OrderedDict[TaskId, _Offer] = field(default_factory=OrderedDict)
    #: The latest announcement of each artifact and the fetch that was planned for it.
    _known: OrderedDict[ArtifactId, tuple[ArtifactNeed, Fetch, float]] = field(
        default_factory=OrderedDict
    )
    #: World instant of the last refusal that was told of, by artifact.
    _refused_s: OrderedDict[ArtifactId, float] = field(default_factory=OrderedDict)
    #: Pulls of the last 24 h: instant, bytes, $ and g.
    _spent: deque[tuple[float, int, float, float]] = field(default_factory=deque)

    # ---------------------------------------------------------------- what it learns

    def offered(self, announcement: Announcement, answer: Bid | Refusal) -> None:
        """Remember an offer until it is known what the task went for."""
        if not isinstance(answer, Bid) or not answer.fetches:
            return
        lam = announcement.terms.carbon_price_usd_per_kg
        needs = {need.artifact_id: need for need in announcement.needs}
        transfers = []
        for fetch in answer.fetches:
            joint_usd = fetch.cost_usd + lam * fetch.carbon_gco2 / G_PER_KG
            transfers.append((fetch.artifact_id, joint_usd))
            _remember(
                self._known,
                fetch.artifact_id,
                (needs[fetch.artifact_id], fetch, joint_usd),
                NEED_COUNT_MAX,
            )
        offer = _Offer(with_copies_usd(answer, lam), tuple(transfers))
        _remember(self._offers, announcement.task_id, offer, OFFER_COUNT_MAX)

    def won(self, task_id: TaskId) -> None:
        """Forget an offer that was taken."""
        self._offers.pop(task_id, None)

    def rejected(self, rejection: Rejection, *, now_s: float) -> tuple[Pull, ...]:
        """Learn what a task went for that this site did not get; return what to pull.

        Every bid says what the task would cost there with its copies in place, so an auction for
        the task is one for the copies, too: the saving is credited to the loser of the lowest such
        bid alone. Credited to all who would have been cheaper, one task would be counted up to k
        times, and k sites would each pull a copy that only one of them can use.
        """
        offer = self._offers.pop(rejection.task_id, None)
        best_usd = rejection.best_with_copies_usd
        if offer is None or best_usd is None or offer.with_copies_usd > best_usd:
            return ()
        transfer_usd = sum(price for _, price in offer.transfers)
        saving_usd = rejection.winning_offer_usd - offer.with_copies_usd
        if saving_usd <= 0:
            return ()
        losses = [
            Loss(
                artifact_id,
                saving_usd=saving_usd * (price / transfer_usd if transfer_usd > 0 else 1.0),
                transfer_usd=price,
            )
            for artifact_id, price in offer.transfers
            if not self.cache.has(artifact_id)
        ]
        wishes = self.migrator.lost(losses, now_s=now_s)
        return self._granted(wishes, now_s=now_s, task_id=rejection.task_id)

    def beat(self, *, now_s: float) -> tuple[Pull, ...]:
        """Look at what is used elsewhere and not here; return what to pull."""
        demand = self.cache.demand
        items = []
        for artifact_id in demand.heard():
            if artifact_id in self._known and not self.cache.has(artifact_id):
                need, _, price_usd = self._known[artifact_id]
                items.append(
                    CachedItem(
                        artifact_id=artifact_id,
                        size_bytes=need.size_bytes,
                        last_used_s=now_s,
                        use_count=0,
                        demand=demand.here(artifact_id),
                        rate_per_h=demand.rate_per_h(artifact_id),
                        elsewhere=demand.elsewhere(artifact_id),
                        refetch_usd=price_usd,
                        mark=0.0,
                    )
                )
        return self._granted(self.migrator.beat(items, now_s=now_s), now_s=now_s)

    def asked(
        self, need: ArtifactNeed, fetch: Fetch, price_usd: float, why: str, *, now_s: float
    ) -> tuple[Pull, ...]:
        """Wish for a copy that another site wants to have here; return it where the gate admits it.

        Args:
            need: What.
            fetch: The way to bring it.
            price_usd: J of that, which is what the copy is taken to be worth.
            why: In words.
            now_s: World instant.
        """
        known = need.artifact_id
        _remember(self._known, known, (need, fetch, price_usd), NEED_COUNT_MAX)
        wish = Wish(known, worth_usd=price_usd, why=why)
        return self._granted([wish], now_s=now_s)

    def planned(
        self,
        need: ArtifactNeed,
        fetch: Fetch,
        price_usd: float,
        why: str,
        *,
        now_s: float,
        without_learning: str = "",
    ) -> tuple[Pull, ...]:
        """Wish for a copy that the plan gives to this site; return it where the gate admits it.

        What it would evict is no question here: the plan has taken its loss off the score.

        Args:
            need: What.
            fetch: The way to bring it.
            price_usd: J of that.
            why: In words.
            now_s: World instant.
            without_learning: What the plan without what was learned does, in words.
        """
        known = need.artifact_id
        if self.cache.has(known):
            return ()
        _remember(self._known, known, (need, fetch, price_usd), NEED_COUNT_MAX)
        wish = Wish(known, worth_usd=math.inf, why=why)
        return self._granted([wish], now_s=now_s, without_learning=without_learning)

    def ended(self, artifact_id: ArtifactId) -> None:
        """Take note that a pull has ended, well or not."""
        self.pulling.discard(artifact_id)

    # ---------------------------------------------------------------- the gate

    def _granted(
        self,
        wishes: Iterable[Wish],
        *,
        now_s: float,
        task_id: TaskId | None = None,
        without_learning: str = "",
    ) -> tuple[Pull, ...]:
        pulls = []
        for wish in wishes:
            need, fetch, _ = self._known[wish.artifact_id]
            if wish.artifact_id in self.pulling or self.cache.is_reserved(wish.artifact_id):
                continue
            problem = self._problem(wish, need, fetch, now_s=now_s)
            why = wish.why if problem is None else f"{wish.why}; {problem}"
            self._decide(
                Decision(
                    now_s,
                    wish.artifact_id,
                    need.name,
                    is_granted=problem is None,
                    why=why,
                    task_id=task_id,
                    without_learning=without_learning,
                )
            )
            if problem is None:
                self.pulling.add(wish.artifact_id)
                self.migrator.pulled(wish.artifact_id)
                self._spent.append((now_s, need.size_bytes, fetch.cost_usd, fetch.carbon_gco2))
                pulls.append(Pull(need, wish.why, task_id, without_learning))
        return tuple(pulls)

    def _decide(self, decision: Decision) -> None:
        """Keep a decision, unless it is a refusal that was told within the hour."""
        refused_s = self._refused_s.get(decision.artifact_id, -math.inf)
        if not decision.is_granted and decision.at_s - refused_s < HOUR_S:
            return
        self._refused_s.pop(decision.artifact_id, None)
        if not decision.is_granted:
            _remember(self._refused_s, decision.artifact_id, decision.at_s, NEED_COUNT_MAX)
        self.decisions.append(decision)
        self.untold.append(decision)

    def _problem(self, wish: Wish, need: ArtifactNeed, fetch: Fetch, *, now_s: float) -> str | None:
        """Return what speaks against a wish, or None."""
        if len(self.pulling) >= PULL_COUNT_MAX:
            return f"{PULL_COUNT_MAX} pulls are under way"
        if need.size_bytes > self.cache.capacity_bytes(need.kind):
            return "it is larger than the cache"
        victims = self.cache.evictions_for(need.kind, need.size_bytes)
        if victims is None:
            return "what is in use leaves it no room"
        lost_usd = self._worth_usd(need, victims)
        if lost_usd >= wish.worth_usd:
            return f"what it would evict is worth {lost_usd:.4g} $"
        return self._over_budget(need, fetch, now_s=now_s)

    def _worth_usd(self, need: ArtifactNeed, victims: Sequence[ArtifactId]) -> float:
        if not victims:
            return 0.0
        worth = {
            item.artifact_id: expected_saving_usd(item) for item in self.cache.items(need.kind)
        }
        return sum(worth[victim] for victim in victims)

    def _over_budget(self, need: ArtifactNeed, fetch: Fetch, *, now_s: float) -> str | None:
        while self._spent and self._spent[0][0] <= now_s - DAY_S:
            self._spent.popleft()
        spent = [sum(each[i] for each in self._spent) for i in (1, 2, 3)]
        wanted = (need.size_bytes, fetch.cost_usd, fetch.carbon_gco2)
        budget = self.budget
        limits = (
            (f"{budget.bytes_a_day / BYTES_PER_GB:g} GB", float(budget.bytes_a_day)),
            (f"{budget.usd_a_day:g} $", budget.usd_a_day),
            (f"{budget.gco2_a_day:g} g", budget.gco2_a_day),
        )
        for used, more, (text, limit) in zip(spent, wanted, limits, strict=True):
            if used + more > limit:
                return f"the day's budget of {text} is spent"
        return None


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _remember(memory: OrderedDict[_Key, _Value], key: _Key, value: _Value, count_max: int) -> None:
    """Keep a value as the latest; the oldest goes where there are too many."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > count_max:
        memory.popitem(last=False)
