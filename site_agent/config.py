"""What an operator sets for one agent: a TOML file, `GCOS_*` variables, options."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from gcos.accounting import CostScope
from gcos.clock import WorldScale
from gcos.errors import InvalidRequestError
from gcos.ids import is_site_id
from gcos.rpc.security import require_loopback
from gcos.sites import Pool
from gcos.tables import default_sites, hardware
from policies.catalogue import DEFAULT, policy_named
from policies.evictors import DEFAULT as DEFAULT_EVICTION
from policies.evictors import evictor_named
from site_agent.lease import LEASE_S
from site_agent.migration import Budget

GIB = 1 << 30
#: A week of plans, one an hour.
PLAN_RECORD_COUNT_MAX = 168


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """How world time and bytes are scaled; the same at every site of a cluster.

    Attributes:
        speed: World seconds per wall second.
        wall_anchor_s: A wall instant ...
        world_anchor_s: ... and the world instant that it stands for.
        byte_ratio: World bytes that one stored byte stands for.
    """

    speed: float = 1.0
    wall_anchor_s: float = 0.0
    world_anchor_s: float = 0.0
    byte_ratio: float = 1.0

    @property
    def scale(self) -> WorldScale:
        """The map from wall time to world time."""
        return WorldScale(self.speed, self.wall_anchor_s, self.world_anchor_s)


@dataclass(frozen=True, slots=True)
class SourcesConfig:
    """What artifacts may be pulled from; `file://` reads below `artifact_roots`.

    Attributes:
        hosts: Hosts of HTTP: `name`, `*.name`, `name:port`; `http://` in front allows no TLS.
        networks: Private and other special networks that may be connected to, such as
            `10.0.0.0/8`; none by default.
        roots: Addresses of object stores below which may be read, such as `s3://bucket/models`.
        adopt: Stores of other programs whose artifacts are served from where they lie: paths, or
            `huggingface` and `ollama` for those of the user that the agent runs as.
    """

    hosts: tuple[str, ...] = (
        "huggingface.co",
        "*.huggingface.co",
        "*.hf.co",
        "registry.ollama.ai",
        "*.r2.cloudflarestorage.com",
    )
    networks: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    adopt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """How artifacts come from other agents.

    Attributes:
        link_cap_bytes_per_s: What one holder may send to this site; 0: as much as it can.
        wait_usd_per_h: What an hour of waiting for bytes is worth when sources are chosen, beside
            what they cost and emit. Assumed: a quarter of what a GPU hour is rented for.
    """

    link_cap_bytes_per_s: float = 0.0
    wait_usd_per_h: float = 0.5


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What an agent is told.

    Attributes:
        site: Id of the site; one of the shipped table brings its zone, PUE and GPUs with it.
        data_dir: Journal, caches and runs; one agent at a time.
        token_file: Secret of the cluster, mode 0600.
        address: `host:port` to serve at; port 0 takes a free one.
        metrics_address: `host:port` on loopback to serve metrics for Prometheus at, over HTTP at
            `/metrics`; port 0 takes a free one; empty: none are served.
        brokers: Addresses of brokers, tried in order.
        predictors: Addresses of predictors, tried in order.
        zone: Electricity zone.
        pue: Facility energy over IT energy.
        pools: GPU pools.
        model_cache_bytes: Capacity of the model cache.
        data_cache_bytes: Capacity of the data cache.
        eviction: What goes first when a cache is full: value, lru, lfu or gdsf.
        artifact_roots: Directories from which artifacts may be added and pulled.
        output_roots: Directories below which tasks may have outputs copied (`as: uri`).
        signals_trace: CSV or Parquet of carbon and price; empty: the shipped typical days.
        carbon_price_usd_per_kg: Lambda where a task names none (about the US EPA's social cost).
        network_kwh_per_gb: Kappa (Aslan et al. 2018, extrapolated to 2020; stress value 0.06).
        cost_scope: Which items are cost.
        lease_s: Duration of a lease, protocol seconds.
        bid_window_s: How long bids are waited for, protocol seconds.
        beat_s: Pause between two beats to the broker, protocol seconds.
        drain_s: How long running jobs may go on after SIGTERM, protocol seconds.
        run_grace_s: Between SIGTERM and SIGKILL of a job, protocol seconds.
        log_max_bytes: Output kept of one run: its beginning, and its end where it is longer.
        log_count_max: Logs of ended runs kept.
        output_count_max: Tasks whose outputs are kept.
        may_preempt: A run may be stopped for one of higher priority; its task is queued again.
        policy: How the site bids: a name of `policies.catalogue`.
        actor_dir: Where trained actors lie, `PART.onnx`, for a policy that has any; None: the
            shipped ones.
        plan_record_count: Plans of copies whose inputs and decisions are kept in the data
            directory, so that they can be made again; 0: none.
        record_decisions: Write each bid and award, with what it was made from, to
            `decisions.jsonl` in `data_dir`, so that it can be made again.
        run_path: `PATH` of jobs.
        log_level: debug, info, warning or error.
        transfer: How artifacts come from other agents.
        routes: What to dial in place of an address of a broker, a predictor or another agent, such
            as the near end of a tunnel: `host:port` by `host:port`.
        copies: What copies ahead of need may cost in any 24 h of world time.
        world: How world time and bytes are scaled.
        sources: What artifacts may be pulled from.
    """

    site: str
    data_dir: Path
    token_file: Path
    address: str = "127.0.0.1:0"
    metrics_address: str = ""
    brokers: tuple[str, ...] = ()
    predictors: tuple[str, ...] = ()
    zone: str = ""
    pue: float = 0.0
    pools: tuple[Pool, ...] = ()
    model_cache_bytes: int = 100 * GIB
    data_cache_bytes: int = 100 * GIB
    eviction: str = DEFAULT_EVICTION
    artifact_roots: tuple[Path, ...] = ()
    output_roots: tuple[Path, ...] = ()
    signals_trace: str = ""
    carbon_price_usd_per_kg: float = 0.2
    network_kwh_per_gb: float = 0.0065
    cost_scope: CostScope = CostScope.OPERATOR
    lease_s: float = LEASE_S
    bid_window_s: float = 2.0
    beat_s: float = 2.0
    drain_s: float = 30.0
    run_grace_s: float = 5.0
    log_max_bytes: int = 16 << 20
    log_count_max: int = 1_000
    output_count_max: int = 1_000
    may_preempt: bool = False
    policy: str = DEFAULT
    actor_dir: Path | None = None
    plan_record_count: int = 0
    record_decisions: bool = False
    run_path: str = "/usr/local/bin:/usr/bin:/bin"
    log_level: str = "info"
    transfer: TransferConfig = field(default_factory=TransferConfig)
    routes: dict[str, str] = field(default_factory=dict)
    copies: Budget = field(default_factory=Budget)
    world: WorldConfig = field(default_factory=WorldConfig)
    sources: SourcesConfig = field(default_factory=SourcesConfig)


def completed(config: AgentConfig) -> AgentConfig:
    """Return the configuration with what the shipped table of sites adds to it.

    Raises:
        InvalidRequestError: The site id is malformed, no zone or pool is known for it, or its
            policy or eviction cannot run at a site.
    """
    if not is_site_id(config.site):
        raise InvalidRequestError(
            f"{config.site!r} is no site id",
            field="site",
            hint="use up to 24 lower-case letters and digits, beginning with a letter",
        )
    facts = default_sites().get(config.site)
    zone, pue, pools = config.zone, config.pue, config.pools
    if facts is not None:
        machine = hardware()[facts.hardware]
        zone = zone or facts.zone
        pue = pue or facts.pue
        pools = pools or (
            Pool(
                type=machine.gpu_type,
                gpu_count=facts.gpu_count,
                speed_ratio=machine.speed_ratio,
                active_kw=machine.active_kw,
                idle_kw=machine.idle_kw,
                usd_per_gpu_h=machine.usd_per_gpu_h,
            ),
        )
    if not zone or not pools:
        raise InvalidRequestError(
            f"site {config.site!r} is not in the shipped table, so it needs a zone and pools",
            field="pools" if zone else "zone",
            hint="known sites: " + ", ".join(sorted(default_sites())),
        )
    _check_numbers(pue or 1.0, pools, config)
    if not policy_named(config.policy).is_live:
        raise InvalidRequestError(
            f"{config.policy} sees all sites at once, or the future: only evaluations run it",
            field="policy",
            hint=f"use {DEFAULT}",
        )
    evictor_named(config.eviction)
    return replace(config, zone=zone, pue=pue or 1.0, pools=pools)


def _check_numbers(pue: float, pools: tuple[Pool, ...], config: AgentConfig) -> None:
    if not pue >= 1:
        raise InvalidRequestError("must be at least 1", field="pue")
    if len({pool.type for pool in pools}) != len(pools):
        raise InvalidRequestError("two pools have one type", field="pools")
    for pool in pools:
        if pool.gpu_count < 1 or not pool.speed_ratio > 0 or not pool.active_kw >= 0:
            raise InvalidRequestError(
                f"pool {pool.type} needs at least one GPU, a speed above 0 and power of 0 or more",
                field="pools",
            )
    for name in ("lease_s", "bid_window_s", "beat_s"):
        if not getattr(config, name) > 0:
            raise InvalidRequestError("must be above 0 seconds", field=name)
    if not 0 <= config.plan_record_count <= PLAN_RECORD_COUNT_MAX:
        raise InvalidRequestError(
            f"must be 0 to {PLAN_RECORD_COUNT_MAX}", field="plan_record_count"
        )
    if config.metrics_address:
        require_loopback(config.metrics_address, field="metrics_address")
    for address in (*config.routes, *config.routes.values()):
        if not address.rpartition(":")[2].isdecimal():
            raise InvalidRequestError(
                f"{address[:80]!r} is no address", field="routes", hint="write host:port"
            )
    budget = config.copies
    if not min(budget.bytes_a_day, budget.usd_a_day, budget.gco2_a_day) >= 0:
        raise InvalidRequestError(
            "a budget is not negative", field="copies", hint="0 pulls no copies ahead of need"
        )
    for name in ("link_cap_bytes_per_s", "wait_usd_per_h"):
        if not getattr(config.transfer, name) >= 0:
            raise InvalidRequestError("must be 0 or more", field=f"transfer.{name}")
    if not (config.world.speed > 0 and config.world.byte_ratio > 0):
        raise InvalidRequestError("speed and byte_ratio must be above 0", field="world")
