"""Custody moves in two steps, each written before the next: take, then let go. Pure.

An artifact without an upstream has a *custodian*, whose copy is protected. A custodian that wants
the room offers custody to a site that holds a complete copy:

    giver                                     taker
      write: offered to taker, epoch e
      CustodyOffer(e)      ────────────────▶  write: mine since e; protect the copy
                           ◀────────────────  CustodyAnswer(e, is_taken)
      write: taker's since e; let the copy go

Between the two writes both copies are protected; at no instant is none, whatever is lost, repeated,
delayed or restarted (I5). An offer without an answer is repeated and never withdrawn, since it may
have been taken; one that was refused is over. *Epochs* number the offers of an artifact: a
custodian offers with one higher than any it has heard of, so that whoever knows a later epoch knows
that the offer in front of it has long been taken.

A refused offer of which an earlier sending arrives late may still be taken: then two copies are
protected, which costs room and loses nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gcos.errors import WrongStateError
from gcos.ids import ArtifactId, SiteId


@dataclass(frozen=True, slots=True)
class Custody:
    """What a site's journal says of an artifact's custody.

    Attributes:
        artifact_id: Which.
        epoch: Of the latest handoff that this site has heard of; 0: there was none.
        holder: The custodian since then, as far as this site knows.
        offered_to: To whom this site has offered it, under `epoch + 1`; None: to nobody.
        is_done: The copy here is protected, or let go, as `holder` asks.
    """

    artifact_id: ArtifactId
    epoch: int
    holder: SiteId
    offered_to: SiteId | None = None
    is_done: bool = True


@dataclass(frozen=True, slots=True)
class CustodyOffer:
    """Be the custodian from now on. Repeated with the same epoch until answered.

    Attributes:
        artifact_id: Of what.
        epoch: The handoff's number.
        giver: The custodian that offers.
    """

    artifact_id: ArtifactId
    epoch: int
    giver: SiteId


@dataclass(frozen=True, slots=True)
class CustodyAnswer:
    """What came of an offer.

    Attributes:
        artifact_id: Of what.
        epoch: Of the offer.
        is_taken: The copy there is protected, or was and custody has moved on since.
        message: Why not, for people.
    """

    artifact_id: ArtifactId
    epoch: int
    is_taken: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What the shell does, in this order: write all, protect, let go, and send.

    What it has protected or let go it tells `Handoffs.done`; until then a restart does it again.

    Attributes:
        writes: Into the journal, durably.
        protect: Copies of which this site is the custodian now.
        let_go: Copies of which another is, and who.
        offers: To whom an offer goes; the answer comes to `Handoffs.answered`.
    """

    writes: tuple[Custody, ...] = ()
    protect: tuple[ArtifactId, ...] = ()
    let_go: tuple[tuple[ArtifactId, SiteId], ...] = ()
    offers: tuple[tuple[SiteId, CustodyOffer], ...] = ()


@dataclass(slots=True)
class Handoffs:
    """The custody of one site's artifacts, so far as it has ever moved."""

    site_id: SiteId
    custodies: dict[ArtifactId, Custody] = field(default_factory=dict)

    def restore(self, custodies: Iterable[Custody]) -> Step:
        """Take over what the journal knows, and do again what it may not have seen done."""
        self.custodies = {each.artifact_id: each for each in custodies}
        undone = [each for each in self.custodies.values() if not each.is_done]
        return Step(
            protect=tuple(each.artifact_id for each in undone if each.holder == self.site_id),
            let_go=tuple(
                (each.artifact_id, each.holder) for each in undone if each.holder != self.site_id
            ),
            offers=self.due(),
        )

    def done(self, artifact_id: ArtifactId) -> Step:
        """Take note that a copy is protected, or let go, as it should be."""
        known = self.custodies.get(artifact_id)
        if known is None or known.is_done:
            return Step()
        return Step(writes=(self._keep(replace(known, is_done=True)),))

    def offer(self, artifact_id: ArtifactId, to: SiteId) -> Step:
        """Offer custody of an artifact whose copy here is protected.

        Raises:
            WrongStateError: It is offered already, or about to be let go.
        """
        assert to != self.site_id, "custody is offered to another"
        known = self._known(artifact_id)
        if known.holder != self.site_id and not known.is_done:
            raise WrongStateError(f"{known.holder} is the custodian of {artifact_id}")
        if known.offered_to is not None:
            raise WrongStateError(f"{artifact_id} is offered to {known.offered_to} already")
        # Where custody had left and somebody added the artifact here anew, it has come back.
        kept = self._keep(replace(known, holder=self.site_id, offered_to=to))
        return Step(writes=(kept,), offers=((to, self._offer_of(kept)),))

    def due(self) -> tuple[tuple[SiteId, CustodyOffer], ...]:
        """Return the offers that no answer has ended: each is to be sent again."""
        return tuple(
            (each.offered_to, self._offer_of(each))
            for each in self.custodies.values()
            if each.offered_to is not None
        )

    def offered(self, offer: CustodyOffer, *, has_copy: bool) -> tuple[CustodyAnswer, Step]:
        """Answer an offer; the answer goes out once the step is done.

        Args:
            offer: What another site offers.
            has_copy: A complete copy lies here.
        """
        known = self.custodies.get(offer.artifact_id)
        epoch = 0 if known is None else known.epoch
        taken = CustodyAnswer(offer.artifact_id, offer.epoch, is_taken=True)
        if offer.epoch < epoch:
            return taken, Step()
        if not has_copy:
            why = "no complete copy is here"
            return replace(taken, is_taken=False, message=why), Step()
        if known is not None and known.offered_to is not None:
            why = f"custody from here is offered to {known.offered_to}"
            return replace(taken, is_taken=False, message=why), Step()
        kept = self._keep(Custody(offer.artifact_id, offer.epoch, self.site_id, is_done=False))
        return taken, Step(writes=(kept,), protect=(offer.artifact_id,))

    def answered(self, answer: CustodyAnswer) -> Step:
        """Let go what was taken; keep what was refused. Any other answer changes nothing."""
        known = self.custodies.get(answer.artifact_id)
        is_open = known is not None and known.offered_to is not None
        if known is None or not is_open or answer.epoch != known.epoch + 1:
            return Step()
        assert known.offered_to is not None
        # A refused number is used up: a late taker of it must not be taken for the next one.
        if not answer.is_taken:
            refused = Custody(answer.artifact_id, answer.epoch, self.site_id, is_done=known.is_done)
            return Step(writes=(self._keep(refused),))
        kept = self._keep(
            Custody(answer.artifact_id, answer.epoch, known.offered_to, is_done=False)
        )
        return Step(writes=(kept,), let_go=((kept.artifact_id, kept.holder),))

    def _known(self, artifact_id: ArtifactId) -> Custody:
        return self.custodies.get(artifact_id, Custody(artifact_id, 0, self.site_id))

    def _offer_of(self, known: Custody) -> CustodyOffer:
        return CustodyOffer(known.artifact_id, known.epoch + 1, self.site_id)

    def _keep(self, custody: Custody) -> Custody:
        self.custodies[custody.artifact_id] = custody
        return custody
