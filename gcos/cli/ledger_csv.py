"""The ledger as CSV (RFC 4180): units stand in the names of columns, instants in RFC 3339. Pure."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from gcos.accounting import Charge
from gcos.artifacts import ArtifactKind
from gcos.ledger import LedgerEntry, fetched_bytes
from gcos.ledger_totals import LedgerGroup, LedgerKey, gpu_h

_CHARGE: Final = (
    "energy_kwh",
    "energy_usd",
    "transfer_usd",
    "penalty_usd",
    "storage_usd",
    "gpu_usd",
    "compute_gco2",
    "network_gco2",
    "transfer_bytes",
)
_TERMS: Final = ("cost_scope", "carbon_price_usd_per_kg")
ENTRY_COLUMNS: Final = (
    *("run_id", "task_id", "name", "project", "kind", "model", "data", "origin", "site"),
    *("gpu_type", "gpu_count", "state", "submitted", "started", "ended", "deadline", "late_s"),
    *("gpu_h", "cost_usd", "carbon_gco2", "at_origin_cost_usd", "at_origin_carbon_gco2"),
    *_CHARGE,
    *(f"at_origin_{name}" for name in _CHARGE),
    *("fetched_model_bytes", "fetched_data_bytes", *_TERMS),
    *("is_energy_measured", "is_carbon_known"),
)
_SUMS: Final = (
    *("attempt_count", "succeeded_count", "unknown_carbon_count", "modelled_energy_count"),
    *("gpu_h", "cost_usd", "carbon_gco2", "at_origin_cost_usd", "at_origin_carbon_gco2"),
)


def entries_csv(entries: Iterable[LedgerEntry]) -> str:
    """Return a line for each attempt under `ENTRY_COLUMNS`."""
    return _csv(ENTRY_COLUMNS, (_entry(entry) for entry in entries))


def groups_csv(groups: Iterable[LedgerGroup], by: LedgerKey) -> str:
    """Return a line for each group; the first column is named after the key."""
    columns = (by.value, *_TERMS, *_SUMS, *_CHARGE, *(f"at_origin_{name}" for name in _CHARGE))
    return _csv(columns, (_group(group) for group in groups))


def _entry(entry: LedgerEntry) -> Sequence[object]:
    charge, at_origin = entry.charge, entry.at_origin
    return (
        *(entry.run_id, entry.task_id, entry.name, entry.project, entry.kind.value),
        *(entry.model, " ".join(entry.data), entry.origin, entry.site_id, entry.pool_type),
        *(entry.gpu_count, entry.state.value, _stamp(entry.submitted_s), _stamp(entry.started_s)),
        *(_stamp(entry.ended_s), _stamp(entry.deadline_s), entry.late_s, gpu_h(entry)),
        *(charge.cost_usd(entry.scope), charge.carbon_gco2),
        *(at_origin.cost_usd(entry.scope), at_origin.carbon_gco2),
        *_items(charge),
        *_items(at_origin),
        *(fetched_bytes(entry, kind) for kind in (ArtifactKind.MODEL, ArtifactKind.DATA)),
        *(entry.scope.value, entry.carbon_price_usd_per_kg),
        *(_flag(entry.is_energy_measured), _flag(entry.is_carbon_known)),
    )


def _group(group: LedgerGroup) -> Sequence[object]:
    return (
        *(group.key, group.scope.value, group.carbon_price_usd_per_kg),
        *(getattr(group, name) for name in _SUMS),
        *_items(group.spent),
        *_items(group.at_origin),
    )


def _items(charge: Charge) -> list[object]:
    return [getattr(charge, name) for name in _CHARGE]


def _stamp(time_s: float | None) -> str:
    if time_s is None:
        return ""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _flag(is_so: bool) -> str:
    return "true" if is_so else "false"


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue()
