"""What the broker tells: who is there, whom to ask, and who holds what. Pure records.

Field for field as in `proto/gcos/v1/broker.proto` and `operator.proto`; `gcos.rpc.wire` converts.
"""

from dataclasses import dataclass

from gcos.accounting import CostScope
from gcos.contract_net import ArtifactNeed, Refusal
from gcos.ids import ArtifactId, SiteId
from gcos.sites import Site, SiteDigest
from gcos.tasks import GpuRequest


@dataclass(frozen=True, slots=True)
class KnownSite:
    """A site as it was last heard.

    Attributes:
        site: What it is.
        digest: How busy it was.
        age_s: Protocol seconds since it was heard.
    """

    site: Site
    digest: SiteDigest
    age_s: float


@dataclass(frozen=True, slots=True)
class SiteBook:
    """All sites of a broker.

    Attributes:
        sites: Sorted by id.
        is_settled: The broker has run for a whole lease, so who is alive has registered; False:
            it has just begun, and a site that is missing may be there all the same.
    """

    sites: tuple[KnownSite, ...]
    is_settled: bool


@dataclass(frozen=True, slots=True)
class NominationQuery:
    """A task that seeks bidders.

    Attributes:
        gpu: GPUs asked for.
        artifact_ids: Artifacts needed.
        run_s: Median run time on the reference GPU, world seconds.
        carbon_price_usd_per_kg: Lambda.
        scope: Which items are cost.
        allow: If not empty, only these sites or zones.
        deny: Never these.
        limit_count: At most so many; 0: 8.
    """

    gpu: GpuRequest
    artifact_ids: tuple[ArtifactId, ...]
    run_s: float
    carbon_price_usd_per_kg: float
    scope: CostScope
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    limit_count: int = 0


@dataclass(frozen=True, slots=True)
class Nominee:
    """A site worth asking for a bid."""

    site_id: SiteId
    address: str
    zone: str


@dataclass(frozen=True, slots=True)
class Nomination:
    """Sites worth asking, best first, why others are not, and who holds the artifacts now.

    Attributes:
        nominees: Best first.
        refusals: Why other sites are left out.
        needs: Artifacts with their present holders.
        is_settled: As in `SiteBook`: only then does a missing site mean anything.
    """

    nominees: tuple[Nominee, ...]
    refusals: tuple[Refusal, ...]
    needs: tuple[ArtifactNeed, ...]
    is_settled: bool


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a reference means.

    Attributes:
        reference: As it was asked for.
        need: The artifact and its holders; None where nobody holds it or it is ambiguous.
        ambiguous_ids: Ids, where more than one content goes by the name.
        nearest: Names that are nearest, where nothing was found.
    """

    reference: str
    need: ArtifactNeed | None
    ambiguous_ids: tuple[ArtifactId, ...] = ()
    nearest: tuple[str, ...] = ()
