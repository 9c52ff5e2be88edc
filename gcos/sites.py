"""Sites: data centers with GPU pools, prices, links and two caches."""

from dataclasses import dataclass

from gcos.artifacts import Artifact
from gcos.ids import ArtifactId, SiteId


@dataclass(frozen=True, slots=True)
class Pool:
    """GPUs of one type at one site.

    Attributes:
        type: GPU type, such as `H100`.
        gpu_count: GPUs in the pool.
        speed_ratio: Work per hour relative to the reference GPU.
        active_kw: Power of one busy GPU with its share of the host, kW.
        idle_kw: Power of one idle GPU with its share of the host, kW.
        usd_per_gpu_h: Price of one GPU hour; 0 where GPUs are owned and scope is operator.
    """

    type: str
    gpu_count: int
    speed_ratio: float
    active_kw: float
    idle_kw: float
    usd_per_gpu_h: float


@dataclass(frozen=True, slots=True)
class Site:
    """What a site says of itself when it registers; changes only with its configuration.

    Attributes:
        site_id: Short name, unique in the cluster.
        incarnation: Random text of the journal beside it; a second live one is refused.
        address: `host:port` of the agent.
        zone: Electricity zone, such as `CA-ON`.
        pue: Power usage effectiveness, facility energy over IT energy.
        pools: GPU pools.
        model_cache_bytes: Capacity of the model cache.
        data_cache_bytes: Capacity of the data cache.
    """

    site_id: SiteId
    incarnation: str
    address: str
    zone: str
    pue: float
    pools: tuple[Pool, ...]
    model_cache_bytes: int
    data_cache_bytes: int


@dataclass(frozen=True, slots=True)
class PoolDigest:
    """How busy a pool is.

    Attributes:
        type: GPU type.
        gpu_count: GPUs in the pool.
        free_count: GPUs that run nothing and are promised to nobody.
        committed_gpu_s: Predicted GPU seconds of world time of running and queued work.
    """

    type: str
    gpu_count: int
    free_count: int
    committed_gpu_s: float


@dataclass(frozen=True, slots=True)
class ArtifactDemand:
    """How often an artifact is used at a site.

    Attributes:
        artifact_id: Which.
        use_count: Uses, each decayed with its age; a fraction.
    """

    artifact_id: ArtifactId
    use_count: float


@dataclass(frozen=True, slots=True)
class SiteDigest:
    """What changes by the second: sent to the broker with each beat.

    Attributes:
        pools: Load of each pool.
        carbon_gco2_per_kwh: Intensity now; None where the signal is missing or stale.
        price_usd_per_kwh: Price of electricity now.
        is_draining: The site takes no new work.
        run_count: Runs in any live state.
        awarded_count: Awards accepted since the agent started; lets the broker forget promises.
        holdings: Complete, verified artifacts that the site serves.
        runs_images: Its executor takes container images.
        secret_names: Sorted names of the secrets that its store has; values never travel.
        output_roots: Directories below which tasks may have outputs copied, as its operator wrote
            them and with links followed.
        demand: What is used most here, most used first.
        day_price_usd_per_kwh: Mean price expected of the next 24 h; None: it does not tell.
        day_carbon_gco2_per_kwh: The same of carbon intensity; None where it is unknown, too.
    """

    pools: tuple[PoolDigest, ...]
    carbon_gco2_per_kwh: float | None
    price_usd_per_kwh: float
    is_draining: bool
    run_count: int
    awarded_count: int
    holdings: tuple[Artifact, ...] = ()
    runs_images: bool = False
    secret_names: tuple[str, ...] = ()
    output_roots: tuple[str, ...] = ()
    demand: tuple[ArtifactDemand, ...] = ()
    day_price_usd_per_kwh: float | None = None
    day_carbon_gco2_per_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A directed link between two sites.

    Attributes:
        rtt_s: Round-trip time.
        bytes_per_s: Rate of a bulk transfer.
        egress_usd_per_gb: What the source charges for leaving, $ per 1e9 bytes.
    """

    rtt_s: float
    bytes_per_s: float
    egress_usd_per_gb: float
