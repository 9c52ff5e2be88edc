"""What running, moving, storing and being late cost, in money and carbon. Pure.

The one implementation behind simulation, live ledger, bids and reward (DESIGN section 5):

    cost   = energy + GPU hours (scope "with-gpu-hours") + egress + penalty + storage       $
    carbon = compute + network                                                              gCO2
    J      = cost + carbon price * carbon                                                   $

Network electricity is carbon only: its money is inside the egress price. Idle power is charged
apart. Embodied carbon is in no term. Signals are step functions, so every integral is exact.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gcos.errors import InvalidRequestError
from gcos.signals import StepSeries, run_integrals

S_PER_H: Final = 3600.0
BYTES_PER_GB: Final = 1e9
G_PER_KG: Final = 1000.0

#: A finish this little past the deadline is in time (DESIGN section 10): rounding, not lateness.
LATE_TOLERANCE_H: Final = 1e-9


class CostScope(Enum):
    """What counts as cost; always named beside a percentage, as GPU hours dwarf electricity."""

    OPERATOR = "operator"
    """Energy, egress, penalty and storage: the GPUs are owned."""

    WITH_GPU_HOURS = "with-gpu-hours"
    """The same and the price of GPU hours."""


AmountT = TypeVar("AmountT", float, NDArray[np.float64])
"""One amount, or one of each of many candidates."""


def cost_usd(
    scope: CostScope,
    *,
    energy_usd: AmountT,
    gpu_usd: AmountT | float,
    transfer_usd: float = 0.0,
    penalty_usd: AmountT | float = 0.0,
    storage_usd: float = 0.0,
) -> AmountT:
    """Return the cost in `scope`, $ (DESIGN section 5, `cost`)."""
    cost = energy_usd + transfer_usd + penalty_usd + storage_usd
    return cost + gpu_usd if scope is CostScope.WITH_GPU_HOURS else cost


def joint_usd(cost_usd: AmountT, carbon_gco2: AmountT, carbon_price_usd_per_kg: float) -> AmountT:
    """Return J = cost + carbon price * carbon, $ (DESIGN section 5, `J`)."""
    return cost_usd + carbon_price_usd_per_kg * carbon_gco2 / G_PER_KG


@dataclass(frozen=True, slots=True)
class Charge:
    """Cost and carbon by item; charges add up.

    Attributes:
        energy_kwh: Electricity of compute, PUE included.
        energy_usd: Its price; negative where prices are.
        gpu_usd: Price of GPU hours; counted in scope `WITH_GPU_HOURS` only.
        transfer_usd: Egress.
        storage_usd: Storage of copies.
        penalty_usd: Late penalties.
        compute_gco2: Carbon of compute.
        network_gco2: Carbon of transfers.
        transfer_bytes: Bytes moved.
    """

    energy_kwh: float = 0.0
    energy_usd: float = 0.0
    gpu_usd: float = 0.0
    transfer_usd: float = 0.0
    storage_usd: float = 0.0
    penalty_usd: float = 0.0
    compute_gco2: float = 0.0
    network_gco2: float = 0.0
    transfer_bytes: int = 0

    def __add__(self, other: "Charge") -> "Charge":
        return Charge(
            energy_kwh=self.energy_kwh + other.energy_kwh,
            energy_usd=self.energy_usd + other.energy_usd,
            gpu_usd=self.gpu_usd + other.gpu_usd,
            transfer_usd=self.transfer_usd + other.transfer_usd,
            storage_usd=self.storage_usd + other.storage_usd,
            penalty_usd=self.penalty_usd + other.penalty_usd,
            compute_gco2=self.compute_gco2 + other.compute_gco2,
            network_gco2=self.network_gco2 + other.network_gco2,
            transfer_bytes=self.transfer_bytes + other.transfer_bytes,
        )

    @classmethod
    def sum(cls, charges: Iterable["Charge"]) -> "Charge":
        """Return the total, the same bit for bit in whatever order the charges come.

        `math.fsum` rounds once, at the end, so the order in which tasks finish cannot show.
        """
        every = list(charges)
        return cls(
            energy_kwh=math.fsum(c.energy_kwh for c in every),
            energy_usd=math.fsum(c.energy_usd for c in every),
            gpu_usd=math.fsum(c.gpu_usd for c in every),
            transfer_usd=math.fsum(c.transfer_usd for c in every),
            storage_usd=math.fsum(c.storage_usd for c in every),
            penalty_usd=math.fsum(c.penalty_usd for c in every),
            compute_gco2=math.fsum(c.compute_gco2 for c in every),
            network_gco2=math.fsum(c.network_gco2 for c in every),
            transfer_bytes=sum(c.transfer_bytes for c in every),
        )

    def cost_usd(self, scope: CostScope) -> float:
        """Return the cost in `scope`, $ (DESIGN section 5, `cost`)."""
        return cost_usd(
            scope,
            energy_usd=self.energy_usd,
            transfer_usd=self.transfer_usd,
            penalty_usd=self.penalty_usd,
            storage_usd=self.storage_usd,
            gpu_usd=self.gpu_usd,
        )

    @property
    def carbon_gco2(self) -> float:
        """Carbon of compute and network, g (DESIGN section 5, `carbon`)."""
        return self.compute_gco2 + self.network_gco2

    def joint_usd(self, scope: CostScope, carbon_price_usd_per_kg: float) -> float:
        """Return J = cost + carbon price * carbon, $ (DESIGN section 5, `J`)."""
        return joint_usd(self.cost_usd(scope), self.carbon_gco2, carbon_price_usd_per_kg)


@dataclass(frozen=True, slots=True)
class RunTerms:
    """What a run draws and pays at one pool.

    Attributes:
        gpu_count: GPUs of the run (g).
        active_kw: Power of one busy GPU with its share of the host, kW (k).
        pue: Facility energy over IT energy (e).
        gpu_usd_per_h: Price of one GPU hour, $ (q).
    """

    gpu_count: int
    active_kw: float
    pue: float
    gpu_usd_per_h: float

    @property
    def power_kw(self) -> float:
        """Power of the run at the meter, kW: g k e."""
        return self.gpu_count * self.active_kw * self.pue


def run_charge(
    terms: RunTerms,
    price: StepSeries,
    carbon: StepSeries | None,
    *,
    start_s: float,
    end_s: float,
) -> Charge:
    """Return what a run from `start_s` to `end_s` costs.

    energy = g k e int price dt, GPU hours = g T q, carbon = g k e int c dt (DESIGN section 5,
    first two terms of `cost`, first of `carbon`).

    Args:
        terms: Power and price of the run.
        price: $/kWh.
        carbon: gCO2/kWh; None: unknown, and no carbon is charged.
        start_s: Start of the run.
        end_s: Its end, or the end of a failed attempt, whose work is charged too.
    """
    assert end_s >= start_s, "a run ends before it starts"
    hours = (end_s - start_s) / S_PER_H
    power_kw = terms.power_kw
    return Charge(
        energy_kwh=power_kw * hours,
        energy_usd=power_kw * price.integral(start_s, end_s) / S_PER_H,
        gpu_usd=terms.gpu_count * hours * terms.gpu_usd_per_h,
        compute_gco2=0.0
        if carbon is None
        else power_kw * carbon.integral(start_s, end_s) / S_PER_H,
    )


def idle_charge(
    *,
    gpu_count: int,
    idle_kw: float,
    pue: float,
    price: StepSeries,
    carbon: StepSeries | None,
    start_s: float,
    end_s: float,
) -> Charge:
    """Return what `gpu_count` idle GPUs draw: kWh, $ and g, nothing else.

    The run integral with idle power (DESIGN section 5, rules). Reported apart from attributable
    charges and never added to the cost of a task.
    """
    terms = RunTerms(gpu_count=gpu_count, active_kw=idle_kw, pue=pue, gpu_usd_per_h=0.0)
    return run_charge(terms, price, carbon, start_s=start_s, end_s=end_s)


@dataclass(frozen=True, slots=True)
class RunChargeArrays:
    """Expected charges at k candidate starts; units as in `Charge`.

    Attributes:
        energy_kwh: The same at each start.
        energy_usd: (k,).
        gpu_usd: The same at each start.
        compute_gco2: (k,).
    """

    energy_kwh: float
    energy_usd: NDArray[np.float64]
    gpu_usd: float
    compute_gco2: NDArray[np.float64]


def expected_run_charges(
    terms: RunTerms,
    price: StepSeries,
    carbon: StepSeries | None,
    *,
    starts_s: NDArray[np.float64],
    durations_s: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> list[RunChargeArrays]:
    """Return expectations of `run_charge` under m distributions of the run time, at each start.

    E[g k e int_S^{S+T} f dt] = g k e sum_q w_q (F(S + d_q) - F(S)): the integral of DESIGN
    section 5 under a run-time distribution with mass w_q at d_q.

    Args:
        terms: Power and price of the run.
        price: $/kWh.
        carbon: gCO2/kWh; None: unknown, and no carbon is charged.
        starts_s: (k,) candidate starts.
        durations_s: (q,) points of the run time, seconds.
        weights: (q, m): the probabilities of each distribution, which sum to 1.
    """
    power_kw = terms.power_kw
    mean_h = (durations_s @ weights / S_PER_H).tolist()
    if carbon is None:
        means = run_integrals((price,), starts_s, durations_s) @ weights
    elif price.shares_steps(carbon):
        means = run_integrals((price, carbon), starts_s, durations_s) @ weights
    else:
        each = [run_integrals((one,), starts_s, durations_s) for one in (price, carbon)]
        means = np.concatenate(each) @ weights
    means *= power_kw / S_PER_H
    return [
        RunChargeArrays(
            energy_kwh=power_kw * mean_h[m],
            energy_usd=means[0, :, m],
            gpu_usd=terms.gpu_count * mean_h[m] * terms.gpu_usd_per_h,
            compute_gco2=np.zeros(len(starts_s)) if carbon is None else means[1, :, m],
        )
        for m in range(weights.shape[1])
    ]


def transfer_charge(
    size_bytes: int,
    *,
    egress_usd_per_gb: float,
    network_kwh_per_gb: float,
    carbon_src: StepSeries | None,
    carbon_dst: StepSeries | None,
    start_s: float,
    end_s: float,
) -> Charge:
    """Return what moving `size_bytes` costs.

    egress = b x; carbon = b kappa (mean c_src + mean c_dst) / 2 with means over the transfer, or
    the values at its start where it takes no time (DESIGN sections 5 and 10). The network's
    electricity is carbon only.

    Args:
        size_bytes: Size of the artifact.
        egress_usd_per_gb: Price of leaving the source, $ per 1e9 bytes.
        network_kwh_per_gb: Energy of the network (kappa), kWh per 1e9 bytes.
        carbon_src: Intensity at the source, gCO2/kWh; None at either end: unknown, no carbon.
        carbon_dst: Intensity at the destination.
        start_s: Start of the transfer.
        end_s: Its end.
    """
    assert end_s >= start_s, "a transfer ends before it starts"
    size_gb = size_bytes / BYTES_PER_GB
    network_gco2 = 0.0
    if carbon_src is not None and carbon_dst is not None:
        intensity = (carbon_src.mean(start_s, end_s) + carbon_dst.mean(start_s, end_s)) / 2
        network_gco2 = size_gb * network_kwh_per_gb * intensity
    return Charge(
        transfer_usd=size_gb * egress_usd_per_gb,
        network_gco2=network_gco2,
        transfer_bytes=size_bytes,
    )


def storage_charge(size_bytes: int, usd_per_gb_h: float, start_s: float, end_s: float) -> Charge:
    """Return what keeping a copy from `start_s` to `end_s` costs (DESIGN section 5, storage)."""
    assert end_s >= start_s, "a copy is evicted before it is stored"
    size_gb_h = size_bytes / BYTES_PER_GB * (end_s - start_s) / S_PER_H
    return Charge(storage_usd=size_gb_h * usd_per_gb_h)


@dataclass(frozen=True, slots=True)
class LatePenalty:
    """What lateness costs: p0 + p1 min(late, cap) once late (DESIGN section 5, third term).

    Attributes:
        fixed_usd: Charged at once when late, $ (p0).
        per_h_usd: Charged per hour of lateness, $ (p1).
        cap_h: Hours after which lateness costs no more.

    Raises:
        InvalidRequestError: a negative or NaN value.
    """

    fixed_usd: float
    per_h_usd: float
    cap_h: float

    def __post_init__(self) -> None:
        for name in ("fixed_usd", "per_h_usd", "cap_h"):
            if not getattr(self, name) >= 0:  # written so that NaN fails too
                raise InvalidRequestError(f"{name} of a penalty must be 0 or more", field=name)

    def usd(self, late_s: float) -> float:
        """Return the penalty of finishing `late_s` after the deadline; 0 within the tolerance."""
        late_h = late_s / S_PER_H
        if late_h <= LATE_TOLERANCE_H:
            return 0.0
        return self.fixed_usd + self.per_h_usd * min(late_h, self.cap_h)

    def expected_usd(
        self, late_s: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the mean penalty, (...), over points `late_s`, (..., q), of mass `weights`, (q,).

        Early points are negative and cost nothing.
        """
        late_h = late_s / S_PER_H
        usd = self.fixed_usd + self.per_h_usd * np.minimum(late_h, self.cap_h)
        return np.asarray(np.where(late_h <= LATE_TOLERANCE_H, 0.0, usd) @ weights)
