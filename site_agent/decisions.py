"""Decisions of an agent with all that they were made from, so that they can be made again. Pure.

Two kinds are recorded: which of its options a site bid with, and to whom an origin awarded. Each
holds the observation as the policy had it, so that `replayed` needs no agent, no clock and no
network: it asks the same code once more and compares. Whoever changes how choices are made finds
out here what agents would have done otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gcos import codec
from gcos.errors import GcosError, InvalidRequestError
from gcos.ids import SiteId, TaskId
from gcos.task_record import Task
from gcos.tasks import TaskSpec, TaskState
from policies.catalogue import policy_named
from policies.interface import Bidder, Choice, Option, Seen, SiteView
from site_agent.auction import Auction, judge


@dataclass(frozen=True, slots=True)
class BidDecision:
    """What a site offered for a task.

    Attributes:
        policy: Name of the policy.
        actor: Who chose, with its version.
        options: What it could offer.
        view: What it knew beside them, but for what a learned bidder sees, an array.
        choice: What it chose.
        reference_usd: Of what it saw; None: it saw nothing.
        features: Of what it saw, option by option; None: there were none.
    """

    policy: str
    actor: str
    options: tuple[Option, ...]
    view: SiteView
    choice: Choice
    reference_usd: float | None = None
    features: tuple[tuple[float, ...], ...] | None = None

    @property
    def whole_view(self) -> SiteView:
        """What the bidder knew."""
        if self.reference_usd is None:
            return self.view
        features = None if self.features is None else np.array(self.features, dtype=np.float32)
        return replace(self.view, seen=Seen(self.reference_usd, features))


@dataclass(frozen=True, slots=True)
class AwardDecision:
    """Whom an origin chose.

    Attributes:
        at_s: World instant.
        task_id: The task.
        attempt: Its attempt, from 1, that was awarded or deferred.
        spec: What the user asked for, limits and preferences included.
        auction: What the announcement brought.
        chosen: The site; None: nobody's offer counted.
    """

    at_s: float
    task_id: TaskId
    attempt: int
    spec: TaskSpec
    auction: Auction
    chosen: SiteId | None


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of a recording: exactly one of the two."""

    bid: BidDecision | None = None
    award: AwardDecision | None = None


Record = Callable[[Decision], None]


def award_decision(before: Task, after: Task, auction: Auction, at_s: float) -> Decision:
    """Return what became of an auction.

    Args:
        before: The task when it was announced.
        after: The task once the auction was closed.
        auction: What the announcement brought.
        at_s: World instant.
    """
    is_chosen = after.state in {TaskState.AWARDING, TaskState.WAITING}
    return Decision(
        award=AwardDecision(
            at_s=at_s,
            task_id=after.task_id,
            attempt=before.fence.attempt + 1,
            spec=after.spec,
            auction=auction,
            chosen=after.bid.site_id if is_chosen and after.bid is not None else None,
        )
    )


@dataclass(frozen=True, slots=True)
class RecordingBidder:
    """Bids as another bidder does, and hands on what it chose from what."""

    policy: str
    bidder: Bidder
    record: Record

    @property
    def actor(self) -> str:
        """As the bidder's."""
        return self.bidder.actor

    @property
    def may_start_later(self) -> bool:
        """As the bidder's."""
        return self.bidder.may_start_later

    @property
    def needs_features(self) -> bool:
        """As the bidder's."""
        return self.bidder.needs_features

    def choose(self, options: Sequence[Option], view: SiteView) -> Choice:
        """Choose as the bidder does."""
        choice = self.bidder.choose(options, view)
        decision = BidDecision(
            self.policy, self.actor, tuple(options), replace(view, seen=None), choice
        )
        if view.seen is not None:
            told = view.seen.features
            decision = replace(
                decision,
                reference_usd=view.seen.reference_usd,
                features=None if told is None else tuple(tuple(row) for row in told.tolist()),
            )
        self.record(Decision(bid=decision))
        return choice


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of making decisions again.

    Attributes:
        bids: Bids that were recorded.
        awards: Awards that were recorded.
        differences: One sentence for each that came out otherwise.
    """

    bids: int
    awards: int
    differences: tuple[str, ...]

    @property
    def total(self) -> int:
        """All decisions."""
        return self.bids + self.awards

    @property
    def same_ratio(self) -> float:
        """Share of the decisions that came out alike; 0 where there are none."""
        return (self.total - len(self.differences)) / self.total if self.total else 0.0


def bidders_of(policy: str) -> tuple[Bidder, ...]:
    """Return who may have bid under a policy where nothing is learned.

    Raises:
        InvalidRequestError: There is no such policy.
    """
    return (policy_named(policy).bidder(),)


def replayed(
    decisions: Sequence[Decision],
    bidders_of: Callable[[str], Sequence[Bidder]] = bidders_of,
) -> Replay:
    """Make recorded decisions again.

    Args:
        decisions: Of all agents.
        bidders_of: Who may have bid under a policy; the one that names itself as recorded did.

    Raises:
        InvalidRequestError: A line holds no decision, or one of a policy that is unknown here.
    """
    bidders: dict[str, Sequence[Bidder]] = {}
    differences = []
    bids = awards = 0
    for decision in decisions:
        if decision.bid is not None:
            bids += 1
            policy = decision.bid.policy
            if policy not in bidders:
                bidders[policy] = bidders_of(policy)
            differences += _bid_again(decision.bid, bidders[policy])
        elif decision.award is not None:
            awards += 1
            differences += _award_again(decision.award)
        else:
            raise InvalidRequestError("a recorded line holds no decision", field="decisions")
    return Replay(bids, awards, tuple(differences))


def _bid_again(decision: BidDecision, bidders: Sequence[Bidder]) -> list[str]:
    where = f"bid of {decision.view.site_id} for {decision.view.task_id}"
    bidder = next((each for each in bidders if each.actor == decision.actor), None)
    if bidder is None:
        known = ", ".join(each.actor for each in bidders)
        return [f"{where}: recorded by {decision.actor}, replayed by {known}"]
    choice = bidder.choose(decision.options, decision.whole_view)
    if choice == decision.choice:
        return []
    was = decision.choice
    told = f"option {choice.index}, score {choice.score_ratio:g}"
    return [f"{where}: {told} instead of {was.index}, {was.score_ratio:g}"]


def _award_again(decision: AwardDecision) -> list[str]:
    ranked = judge(decision.spec, decision.auction).ranked
    chosen = ranked[0].site_id if ranked else None
    if chosen == decision.chosen:
        return []
    was = decision.chosen or "nobody"
    return [f"award of {decision.task_id}: {chosen or 'nobody'} instead of {was}"]


def decisions_in(recording: bytes) -> list[Decision]:
    """Return the decisions of a recording; a last line that was cut off is left out.

    Raises:
        GcosError: A whole line cannot be read; the message has its number.
    """
    found = []
    lines = recording.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(codec.decode(Decision, line))
        except GcosError as exc:
            raise GcosError(
                f"line {number} of the recording: {exc.message}", hint=exc.hint
            ) from exc
    return found
