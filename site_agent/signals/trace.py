"""Signals from a file of hourly values, CSV or Parquet."""

import asyncio
import csv
import io
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from gcos.errors import InvalidRequestError, NotFoundError, UnavailableError
from gcos.signals import (
    CARBON_UNIT,
    HOUR_S,
    PRICE_UNIT,
    EmissionFactor,
    Provenance,
    Signal,
    SignalKind,
    SiteSignals,
    StepSeries,
    hour_window,
)
from site_agent.signals.profile import typical_carbon, typical_price
from site_agent.signals.trace_table import (
    EXIT_NO_ZONE,
    HourlyColumn,
    ZoneTrace,
    lacks_zone,
    over_window,
    parse_zone,
)

#: The child that reads Parquet; 32,000 rows of one zone out of 418,000 take 1 s.
PARQUET_TIMEOUT_S: Final = 120.0


class TraceSource:
    """Answers from a trace, and from typical days where the trace has nothing, saying so.

    Files are read once a zone and kept. A window may reach outside the trace: those hours come
    from the embedded tables, never from the last value held on. Carbon of another kind or factor
    than the tables' is not mixed with them: it is then missing.

    Args:
        paths: `.csv` or `.parquet` files; see `site_agent.signals.trace_table` for their columns.
            Where carbon and price are in two files, each comes from the first that has it.
        kind: What the intensity in the files describes.
        factor: What it counts.
    """

    def __init__(
        self,
        *paths: Path | str,
        kind: SignalKind = SignalKind.AVERAGE,
        factor: EmissionFactor = EmissionFactor.LIFECYCLE,
    ) -> None:
        assert paths, "a trace needs a file"
        self._paths = [Path(path).absolute() for path in paths]
        self._names = ", ".join(path.name for path in self._paths)
        self._kind = kind
        self._factor = factor
        self._zones: dict[str, ZoneTrace] = {}
        self._reading = asyncio.Lock()

    async def signals(self, zone: str, start_s: float, end_s: float) -> SiteSignals:
        """Return the trace over [start_s, end_s], or typical days outside it.

        Raises:
            NotFoundError: a file lacks `zone`, or hours are missing and the tables lack it.
            InvalidRequestError: a bad file, a bad window, a hole of more than 3 h in it, or a
                Parquet file without the extra that reads it.
            UnavailableError: a Parquet file took too long.
        """
        window = hour_window(start_s, end_s)
        trace = await self._zone(zone)
        return await asyncio.to_thread(self._over_window, trace, zone, window)

    async def _zone(self, zone: str) -> ZoneTrace:
        async with self._reading:
            if zone not in self._zones:
                traces = [await _read(path, zone) for path in self._paths]
                self._zones[zone] = ZoneTrace(
                    carbon=next((t.carbon for t in traces if t.carbon is not None), None),
                    price=next((t.price for t in traces if t.price is not None), None),
                )
            return self._zones[zone]

    def _over_window(self, trace: ZoneTrace, zone: str, window: tuple[int, int]) -> SiteSignals:
        start_s, end_s = window[0] * HOUR_S, window[1] * HOUR_S
        price = _completed(
            Provenance(self._names, zone, None, None, issued_s=0.0, is_estimated=False),
            PRICE_UNIT,
            trace.price,
            window,
            lambda: typical_price(zone, start_s, end_s),
        )
        try:
            carbon = _completed(
                Provenance(
                    self._names, zone, self._kind, self._factor, issued_s=0.0, is_estimated=False
                ),
                CARBON_UNIT,
                trace.carbon,
                window,
                lambda: self._typical_carbon(zone, start_s, end_s),
            )
        except NotFoundError:
            carbon = None  # the agent then decides by cost alone and says STALE_SIGNAL
        return SiteSignals(carbon=carbon, price=price)

    def _typical_carbon(self, zone: str, start_s: float, end_s: float) -> Signal:
        typical = typical_carbon(zone, start_s, end_s)
        if (typical.provenance.kind, typical.provenance.factor) != (self._kind, self._factor):
            raise NotFoundError(f"no typical days of {self._kind.value} carbon for {zone}")
        return typical


def _completed(
    provenance: Provenance,
    unit: str,
    column: HourlyColumn | None,
    window: tuple[int, int],
    typical: Callable[[], Signal],
) -> Signal:
    """Return the column over the hours of `window`, from `typical()` where the file has none."""
    if column is None:
        fallback = typical()
        said = f"{provenance.source} states no {unit}; {fallback.provenance.source}"
        return replace(fallback, provenance=replace(fallback.provenance, source=said))
    found = over_window(column, *window)
    values = found.values
    parts = [f"{column.file}, column {column.name}"]
    if found.interpolated_hours:
        parts.append(f"{found.interpolated_hours} h interpolated")
    outside_hours = int(found.is_outside.sum())
    if outside_hours:
        fallback = typical()
        values = np.where(found.is_outside, fallback.series.values, values)
        parts.append(f"{outside_hours} h outside it: {fallback.provenance.source}")
    told = replace(
        provenance,
        source="; ".join(parts),
        is_estimated=found.is_estimated or found.interpolated_hours + outside_hours > 0,
    )
    return Signal(StepSeries(window[0] * HOUR_S, HOUR_S, values), told, unit)


async def _read(path: Path, zone: str) -> ZoneTrace:
    if path.suffix == ".parquet":
        text = await _parquet_text(path, zone)
        return await asyncio.to_thread(_parse_numbered, path.name, text)
    return await asyncio.to_thread(_read_csv, path, zone)


def _read_csv(path: Path, zone: str) -> ZoneTrace:
    try:
        # A byte order mark, as spreadsheets write it, would become part of the first name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            if "zone" not in columns:
                raise InvalidRequestError(f"{path.name}: no column zone", field="zone")
            rows: list[tuple[int, dict[str, str | None]]] = []
            zones: dict[str, None] = {}
            for cells in reader:
                zones[cells["zone"]] = None
                if cells["zone"] == zone:
                    rows.append((reader.line_num, cells))
            if not rows:
                raise lacks_zone(path.name, zone, zones)
            return parse_zone(path.name, columns, rows)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InvalidRequestError(f"cannot read the trace {path}: {exc}") from exc


async def _parquet_text(path: Path, zone: str) -> str:
    """Return the zone's rows as CSV from a child process.

    A process of its own: the Parquet library takes 100 MB that an agent would never give back.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "site_agent.signals.parquet",
        str(path),
        zone,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(PARQUET_TIMEOUT_S):
            out, err = await child.communicate()
    except TimeoutError as exc:
        raise UnavailableError(f"{path.name} was not read in {PARQUET_TIMEOUT_S:.0f} s") from exc
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    said = err.decode(errors="replace").strip()
    if child.returncode == EXIT_NO_ZONE:
        raise NotFoundError(said)
    if child.returncode != 0:
        raise InvalidRequestError(said or f"{path.name}: the reader ended with {child.returncode}")
    return out.decode()


def _parse_numbered(file: str, text: str) -> ZoneTrace:
    """Return the zone's columns from the child's CSV, whose first column counts the file's rows."""
    reader = csv.DictReader(io.StringIO(text))
    columns = reader.fieldnames or ()
    return parse_zone(file, columns, ((int(cells["row"]), cells) for cells in reader))
