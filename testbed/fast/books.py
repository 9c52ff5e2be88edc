"""What a run came to: lines of the log, and charges by `gcos.accounting`'s formulas.

Each sum is kept with what its rounding has lost (Neumaier, ZAMM 1974), so that it is as right as
the one rounding of `Charge.sum`.
"""

from gcos.accounting import BYTES_PER_GB, G_PER_KG, LATE_TOLERANCE_H, S_PER_H
from testbed.fast.compiled import compiled
from testbed.fast.layout import CARBON, PRICE, Floats, State
from testbed.fast.signals import integral, mean

# Items of a charge, in the order of its fields.
ENERGY_KWH = 0
ENERGY_USD = 1
GPU_USD = 2
TRANSFER_USD = 3
STORAGE_USD = 4
PENALTY_USD = 5
COMPUTE_GCO2 = 6
NETWORK_GCO2 = 7
TRANSFER_BYTES = 8
# Then what busy GPUs would draw if they idled.
BUSY_KWH = 9
BUSY_USD = 10
BUSY_GCO2 = 11
# Then counts.
MISS_COUNT = 12
TASK_COUNT = 13
ITEM_COUNT = 14

WHOLE = 0
MEASURED = 1


@compiled
def line(
    s: State,
    kind: int,
    begin_s: float,
    end_s: float,
    site: int,
    source: int,
    artifact: int,
    task: int,
    is_stored: int,
) -> None:
    """Write a line of the log."""
    top = s.g[0]
    told = s.lines[top.log_count]
    top.log_count += 1
    told.kind = kind
    told.begin_s = begin_s
    told.end_s = end_s
    told.site = site
    told.source = source
    told.artifact = artifact
    told.task = task
    told.is_stored = is_stored


@compiled
def _add(sums: Floats, account: int, item: int, value: float) -> None:
    total = sums[account, item, 0]
    new = total + value
    if abs(total) >= abs(value):
        sums[account, item, 1] += (total - new) + value
    else:
        sums[account, item, 1] += (value - new) + total
    sums[account, item, 0] = new


@compiled
def add(s: State, at_s: float, item: int, value: float) -> None:
    """Enter a charge that belongs to the instant `at_s`."""
    _add(s.sums, WHOLE, item, value)
    if s.g[0].measured_from_s <= at_s < s.g[0].measured_until_s:
        _add(s.sums, MEASURED, item, value)


@compiled
def charge_storage(s: State, artifact: int, since_s: float, until_s: float) -> None:
    """Charge the storage of a copy; it belongs to the begin of its transfer."""
    size_gb_h = s.artifacts[artifact].size_bytes / BYTES_PER_GB * (until_s - since_s) / S_PER_H
    add(s, since_s, STORAGE_USD, size_gb_h * s.g[0].storage_usd_per_gb_h)


@compiled
def network_gco2(
    s: State, artifact: int, source: int, site: int, t0_s: float, t1_s: float
) -> float:
    """Return the true carbon of a transfer."""
    size_gb = s.artifacts[artifact].size_bytes / BYTES_PER_GB
    sent = mean(s.series, s.truth, s.truth_sum, CARBON, source, t0_s, t1_s)
    received = mean(s.series, s.truth, s.truth_sum, CARBON, site, t0_s, t1_s)
    return size_gb * s.g[0].kappa * ((sent + received) / 2)


@compiled
def charge_transfer(
    s: State, artifact: int, source: int, site: int, t0_s: float, t1_s: float
) -> float:
    """Charge a transfer that has ended; return its J."""
    size_bytes = s.artifacts[artifact].size_bytes
    usd = size_bytes / BYTES_PER_GB * s.links[source, site].egress
    gco2 = network_gco2(s, artifact, source, site, t0_s, t1_s)
    add(s, t0_s, TRANSFER_USD, usd)
    add(s, t0_s, NETWORK_GCO2, gco2)
    add(s, t0_s, TRANSFER_BYTES, float(size_bytes))
    return usd + s.g[0].carbon_price * gco2 / 1000.0


@compiled
def _draw(
    s: State, site: int, power_kw: float, t0_s: float, t1_s: float
) -> tuple[float, float, float]:
    """Return kWh, $ and g of drawing `power_kw`."""
    usd = power_kw * integral(s.series, s.truth, s.truth_sum, PRICE, site, t0_s, t1_s) / S_PER_H
    gco2 = power_kw * integral(s.series, s.truth, s.truth_sum, CARBON, site, t0_s, t1_s) / S_PER_H
    return power_kw * ((t1_s - t0_s) / S_PER_H), usd, gco2


@compiled
def charge_run(s: State, task: int, site: int, t0_s: float, t1_s: float) -> None:
    """Charge the electricity and GPU hours of an attempt."""
    what, here, top = s.tasks[task], s.sites[site], s.g[0]
    top.last_end_s = max(top.last_end_s, t1_s)
    kwh, usd, gco2 = _draw(s, site, what.gpu_count * here.active_kw * here.pue, t0_s, t1_s)
    add(s, what.arrival_s, ENERGY_KWH, kwh)
    add(s, what.arrival_s, ENERGY_USD, usd)
    add(s, what.arrival_s, COMPUTE_GCO2, gco2)
    hours = (t1_s - t0_s) / S_PER_H
    gpu_usd = what.gpu_count * hours * here.usd_per_gpu_h
    add(s, what.arrival_s, GPU_USD, gpu_usd)
    what.joint_usd += usd + top.carbon_price * gco2 / G_PER_KG
    if top.counts_gpu_hours:
        what.joint_usd += gpu_usd
    what.began_s, what.ended_s = t0_s, t1_s
    idle_kw = what.gpu_count * here.idle_kw * here.pue
    for account in range(2):
        begin_s = t0_s if account == WHOLE else max(t0_s, top.measured_from_s)
        end_s = t1_s if account == WHOLE else min(t1_s, top.measured_until_s)
        if begin_s < end_s:
            kwh, usd, gco2 = _draw(s, site, idle_kw, begin_s, end_s)
            _add(s.sums, account, BUSY_KWH, kwh)
            _add(s.sums, account, BUSY_USD, usd)
            _add(s.sums, account, BUSY_GCO2, gco2)


@compiled
def charge_end(s: State, task: int, end_s: float) -> None:
    """Count a task that has ended, and charge its lateness."""
    what = s.tasks[task]
    late_h = (end_s - what.deadline_s) / S_PER_H
    is_late = late_h > LATE_TOLERANCE_H
    if is_late:
        usd = what.penalty_usd + what.penalty_usd_per_h * min(late_h, what.penalty_cap_h)
        add(s, what.arrival_s, PENALTY_USD, usd)
        what.joint_usd += usd
        add(s, what.arrival_s, MISS_COUNT, 1.0)
    add(s, what.arrival_s, TASK_COUNT, 1.0)


@compiled
def count_lookup(s: State, task: int, kind: int, is_hit: int) -> None:
    """Count an artifact that a run found at its site, or had to wait for."""
    s.lookups[WHOLE, kind, is_hit] += 1
    if s.g[0].measured_from_s <= s.tasks[task].arrival_s < s.g[0].measured_until_s:
        s.lookups[MEASURED, kind, is_hit] += 1
