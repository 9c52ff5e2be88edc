"""One problem to simulate, fully drawn: sites, signals, links, artifacts, tasks. Pure records.

An instance holds everything that chance decides outside a policy, so that every policy meets the
same world: a scenario, a week of signals and a seed make one (`testbed.instances`), a job log makes
another. Units are those of the kernel: seconds since the epoch (UTC), bytes, kW, gCO2/kWh, $/kWh.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gcos.accounting import CostScope, LatePenalty
from gcos.artifacts import Artifact
from gcos.ids import ArtifactId, SiteId
from gcos.signals import StepSeries
from gcos.sites import Link, Site


@dataclass(frozen=True, slots=True)
class SimTask:
    """A task with its truth.

    Attributes:
        task_id: Unique in the instance; ascending with arrival.
        arrival_s: World instant of its submission.
        origin: Site to which it is submitted.
        model: The model it needs.
        data: The data set it needs.
        gpu_count: GPUs it asks for.
        predicted_work_s: Predicted median of its run time at speed 1.
        work_s: Its true run time at speed 1; no policy sees it.
        sigma: Standard deviation of ln(true / predicted), as the predictor states it.
        deadline_s: World instant of the deadline; drawn from the prediction, never from the truth.
        late_penalty: What being late costs.
        job_class: Which class of the workload it is, such as `short`.
    """

    task_id: str
    arrival_s: float
    origin: SiteId
    model: ArtifactId
    data: ArtifactId
    gpu_count: int
    predicted_work_s: float
    work_s: float
    sigma: float
    deadline_s: float
    late_penalty: LatePenalty
    job_class: str = ""


@dataclass(frozen=True, slots=True)
class Upstream:
    """An artifact and the site beside which its permanent copy lies, outside the caches."""

    artifact: Artifact
    home: SiteId


class ChurnKind(Enum):
    """What happens to a site in the middle of a run."""

    LEAVE = "leave"
    JOIN = "join"


@dataclass(frozen=True, slots=True)
class Churn:
    """A site goes or comes.

    Attributes:
        at_s: World instant.
        kind: Whether it goes or comes.
        site_id: Which site; one that joins for the first time is among the instance's sites too.
        keeps_caches: On joining again: what it held is still there.
    """

    at_s: float
    kind: ChurnKind
    site_id: SiteId
    keeps_caches: bool = False


@dataclass(frozen=True, slots=True)
class ForecastNoise:
    """How wrong forecasts are: a multiplicative AR(1) over the hours ahead.

    The forecast issued in an hour for the hour k ahead is the truth times 1 + e_k with e_0 = 0 and
    e_k = rho e_{k-1} + sqrt(1 - rho^2) sigma N(0, 1).

    Attributes:
        sigma: Standard deviation that the error tends to; 0: forecasts are right.
        rho: Correlation from one hour to the next.
    """

    sigma: float = 0.0
    rho: float = 0.9


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong by chance, beside sites that go and come as planned; drawn from the seed.

    Ratios are probabilities. Those of messages and transfers are below 1, so that what is repeated
    succeeds in the end.

    Attributes:
        message_loss_ratio: A message between two sites is lost.
        message_delay_s: Mean of an exponential delay of each message, beside that of its link.
        crash_per_h: Mean rate at which each site that is there loses its machines, 1/h: what runs
            is killed, what is stored stays. Until the end of the measured window.
        restart_s: How long a site is away after that.
        corrupt_ratio: What a transfer brought does not hash to its digest, and is fetched again.
        disk_full_ratio: A disk has no room for a copy that its cache has room for.
    """

    message_loss_ratio: float = 0.0
    message_delay_s: float = 0.0
    crash_per_h: float = 0.0
    restart_s: float = 600.0
    corrupt_ratio: float = 0.0
    disk_full_ratio: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """A drawn problem.

    Attributes:
        name: Scenario and what tells this draw apart, such as `default`.
        seed: Seed of everything drawn, and of the forecasts' noise.
        start_s: World instant of the begin, on a UTC hour.
        warmup_s: Length of the warm-up; charges of what arrives in it are not measured.
        measure_s: Length of the measured window after it; then what is left is run to its end.
        sites: All sites, sorted by id; `churn` says which of them come later.
        price: Price at each site, $/kWh, adder included; covers the run and some days more.
        carbon: Intensity at each site, gCO2/kWh.
        links: Directed links between different sites, uncontended.
        shares_bandwidth: Concurrent flows share a site's uplink and downlink.
        upstreams: Every artifact with its home, sorted by id.
        tasks: Sorted by arrival, then id.
        carbon_price_usd_per_kg: Lambda.
        network_kwh_per_gb: Kappa.
        scope: Which items are cost.
        storage_usd_per_gb_h: Price of keeping a copy in a cache.
        forecast: How wrong forecasts of price and carbon are.
        churn: Sites that go and come, in order of time.
        faults: What goes wrong by chance.
        notes: What a reader of results must know, such as "synthetic carbon at on".
    """

    name: str
    seed: int
    start_s: float
    warmup_s: float
    measure_s: float
    sites: tuple[Site, ...]
    price: Mapping[SiteId, StepSeries]
    carbon: Mapping[SiteId, StepSeries]
    links: Mapping[tuple[SiteId, SiteId], Link]
    shares_bandwidth: bool
    upstreams: tuple[Upstream, ...]
    tasks: tuple[SimTask, ...]
    carbon_price_usd_per_kg: float
    network_kwh_per_gb: float
    scope: CostScope
    storage_usd_per_gb_h: float
    forecast: ForecastNoise = ForecastNoise()
    churn: tuple[Churn, ...] = ()
    faults: Faults = Faults()
    notes: tuple[str, ...] = ()

    @property
    def measured_s(self) -> tuple[float, float]:
        """The measured window [begin, end)."""
        begin_s = self.start_s + self.warmup_s
        return begin_s, begin_s + self.measure_s
