"""Recomputes the tables of facts in `gcos/tables` from a directory of public data.

    python -m testbed.tables --data DIR --out gcos/tables

Needs the `parquet` extra. The columns read are documented in `gcos/tables/SOURCES.md`. The same
directory gives the same bytes.
"""

import argparse
import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.compute
import pyarrow.parquet
from numpy.typing import NDArray

from testbed.distances import FIBRE_KM_PER_MS, great_circle_km

#: Profiles begin here: prices reach further back than carbon.
FIRST_HOUR: Final = np.datetime64("2021-01-01T00", "us")

#: A price above this quantile of its zone is a spike: told in `price_spikes.csv`, not averaged in.
SPIKE_QUANTILE: Final = 0.99

#: Fewest hours behind one month-and-hour cell; a full month has at least 28.
CELL_HOURS_MIN: Final = 28

#: Rates where nothing was measured (testbed/scenarios/default.toml, [network]).
SAME_CONTINENT_GBPS: Final = 4.0
OTHER_GBPS: Final = 2.0


@dataclass(frozen=True, slots=True)
class SitePlan:
    """A default site: what no data file says of it."""

    site_id: str
    zone: str
    continent: str
    hardware: str
    pue: float


#: Hardware and PUE as in testbed/scenarios/default.toml and, from `nsw` on, variants.toml
#: (sites-14); `cl` is in neither: its PUE is the provider's report for the region.
SITES: Final = (
    SitePlan("cal", "US-CAL-CISO", "NA", "large", 1.15),
    SitePlan("tex", "US-TEX-ERCO", "NA", "large", 1.15),
    SitePlan("pjm", "US-MIDA-PJM", "NA", "medium", 1.15),
    SitePlan("de", "DE", "EU", "large", 1.18),
    SitePlan("sg", "SG", "AS", "medium", 1.35),
    SitePlan("jp", "JP-TK", "AS", "medium", 1.35),
    SitePlan("br", "BR-CS", "SA", "small", 1.30),
    SitePlan("on", "CA-ON", "NA", "large", 1.15),
    SitePlan("nsw", "AU-NSW", "OC", "small", 1.35),
    SitePlan("gb", "GB", "EU", "large", 1.18),
    SitePlan("za", "ZA", "AF", "medium", 1.30),
    SitePlan("in", "IN-WE", "AS", "medium", 1.42),
    SitePlan("cl", "CL-SEN", "SA", "medium", 1.12),
)
LOCAL_GPU_COUNT: Final = 2

#: GPU types that servers hold. Left out of the source: rows with a shifted column (A10G), with
#: the power of PCIe and SXM2 swapped (V100 16 GB) or board power beside one chip's memory (K80).
GPU_NAMES: Final = (
    "H100 SXM",
    "H100 NVL",
    "A100 SXM4 80 GB",
    "A100 PCIe 40/80GB",
    "L40S",
    "L4",
    "RTX A6000",
    "RTX A5000",
    "RTX 8000",
    "T4",
    "Tesla V100-SXM2-32GB",
    "Tesla P100",
    "Tesla P40",
    "Tesla K40c",
    "Quadro P6000",
)

#: Language models of the catalogue, one name a family and size.
MODEL_NAMES: Final = (
    "smollm2:360m",
    "qwen2.5:0.5b",
    "qwen3:0.6b",
    "gemma3:1b",
    "llama3.2:1b",
    "tinyllama:1.1b",
    "qwen2.5:1.5b",
    "deepseek-r1:1.5b",
    "qwen3:1.7b",
    "granite3.3:2b",
    "gemma2:2b",
    "llama3.2:3b",
    "qwen2.5:3b",
    "phi3.5:3.8b",
    "phi4-mini:3.8b",
    "qwen3:4b",
    "llama2:7b",
    "codellama:7b",
    "mistral:7b",
    "qwen2.5:7b",
    "qwen2.5-coder:7b",
    "olmo2:7b",
    "deepseek-r1:7b",
    "llama3:8b",
    "llama3.1:8b",
    "granite3.3:8b",
    "qwen3:8b",
    "deepseek-r1:8b",
    "gemma2:9b",
    "yi:9b",
    "glm4:9b",
    "falcon3:10b",
    "mistral-nemo:12b",
    "llama2:13b",
    "phi4:14b",
    "qwen2.5:14b",
    "qwen3:14b",
    "starcoder2:15b",
    "deepseek-coder-v2:16b",
    "gpt-oss:20b",
    "codestral:22b",
    "mistral-small:24b",
    "gemma2:27b",
    "qwen3:30b",
    "qwen2.5:32b",
    "qwq:32b",
    "command-r:35b",
    "falcon:40b",
    "llama3.3:70b",
    "qwen2.5:72b",
    "qwen3-next:80b",
    "command-r-plus:104b",
    "gpt-oss:120b",
    "mistral-large:123b",
    "dbrx:132b",
    "zephyr:141b",
    "qwen3:235b",
    "llama3.1:405b",
    "deepseek-v3:671b",
)

#: Data sets whose source names only examples; their size is estimated.
ESTIMATED_DATA_SETS: Final = (
    "dolphin",
    "Dynosaur",
    "LaMini-Instruction",
    "GPT-4all Dataset",
    "unnatural-instructions",
    "helpSteer",
    "no_robots",
    "dolma",
)


@dataclass(frozen=True, slots=True)
class HourlyTable:
    """One column of a Parquet file: parallel arrays of zone, hour (UTC) and value."""

    zone: NDArray[np.str_]
    time: NDArray[np.datetime64]
    value: NDArray[np.float64]

    def of(self, zone: str) -> tuple[NDArray[np.datetime64], NDArray[np.float64]]:
        """Return the hours and values of one zone from `FIRST_HOUR` on."""
        rows = (self.zone == zone) & (self.time >= FIRST_HOUR) & np.isfinite(self.value)
        return self.time[rows], self.value[rows]


def read_hourly(path: Path, column: str) -> HourlyTable:
    """Return `zone`, `time` and `column` of a Parquet file; its times must be UTC."""
    table = pyarrow.parquet.read_table(path, columns=["zone", "time", column])
    kind = table.schema.field("time").type
    if str(kind.tz) != "UTC":
        raise ValueError(f"{path}: column time is {kind}, not UTC")
    return HourlyTable(
        zone=np.asarray(pyarrow.compute.cast(table["zone"], "string").to_numpy(), dtype=np.str_),
        time=np.asarray(table["time"].to_numpy(), dtype="datetime64[us]"),
        value=np.asarray(table[column].to_numpy(), dtype=np.float64),
    )


def day_cells(
    time: NDArray[np.datetime64], value: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation, each (12, 24), by UTC month and hour.

    Raises:
        ValueError: a cell has fewer than `CELL_HOURS_MIN` hours.
    """
    hour = time.astype("datetime64[h]").astype(np.int64)
    month = time.astype("datetime64[M]").astype(np.int64) % 12
    cell = month * 24 + hour % 24
    count = np.bincount(cell, minlength=288)
    if count.min() < CELL_HOURS_MIN:
        raise ValueError(f"month {int(np.argmin(count)) // 24 + 1} has too few hours")
    mean = np.bincount(cell, weights=value, minlength=288) / count
    variance = np.bincount(cell, weights=(value - mean[cell]) ** 2, minlength=288) / count
    return mean.reshape(12, 24), np.sqrt(variance).reshape(12, 24)


def write_table(
    path: Path, about: Sequence[str], header: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Write a CSV file whose leading `#` lines say what it holds and under which licence."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {line}\n" for line in about)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _profile_rows(
    zone: str, time: NDArray[np.datetime64], value: NDArray[np.float64], digits: int
) -> Iterable[Sequence[object]]:
    for statistic, table in zip(("mean", "std"), day_cells(time, value), strict=True):
        for month in range(12):
            yield [zone, month + 1, statistic, *(f"{v:.{digits}f}" for v in table[month])]


_PROFILE_HEADER = ("zone", "month", "statistic", *(f"h{hour:02d}" for hour in range(24)))


def write_carbon_profiles(data: Path, out: Path) -> None:
    """Write `carbon_profiles.csv`."""
    table = read_hourly(data / "carbon_intensity.parquet", "ci_lifecycle")
    rows = [row for site in SITES for row in _profile_rows(site.zone, *table.of(site.zone), 1)]
    write_table(
        out / "carbon_profiles.csv",
        [
            "Typical days of carbon intensity: lifecycle gCO2eq/kWh by UTC month and hour,",
            "mean and standard deviation over hourly values of 2021-01 to 2024-08.",
            "Contains information from Electricity Maps, https://www.electricitymaps.com, made",
            "available under the Open Database License (ODbL) 1.0; this derived table is under",
            "the same licence: see LICENSE-ODbL.md.",
        ],
        _PROFILE_HEADER,
        rows,
    )


def write_price_profiles(data: Path, out: Path) -> None:
    """Write `price_profiles.csv`, and the spikes that it leaves out to `price_spikes.csv`."""
    table = read_hourly(data / "electricity_price.parquet", "price_usd_per_mwh")
    profiles: list[Sequence[object]] = []
    spikes: list[Sequence[object]] = []
    for site in SITES:
        time, usd_per_mwh = table.of(site.zone)
        price = usd_per_mwh / 1000
        threshold = float(np.quantile(price, SPIKE_QUANTILE))
        kept = price <= threshold
        profiles.extend(_profile_rows(site.zone, time[kept], price[kept], 5))
        figures = (threshold, price.mean(), price[kept].mean(), price.max())
        hours = int((~kept).sum())
        spikes.append([site.zone, *(f"{v:.5f}" for v in figures), hours, len(price)])
    write_table(
        out / "price_profiles.csv",
        [
            "Typical days of the wholesale price of electricity: $/kWh by UTC month and hour, mean",
            "and standard deviation over hourly values of 2021-01 to 2024-08 without the dearest",
            "1 % of hours of each zone, which price_spikes.csv states. No grid fees or taxes.",
        ],
        _PROFILE_HEADER,
        profiles,
    )
    write_table(
        out / "price_spikes.csv",
        ["What price_profiles.csv leaves out: hours above the 99 % quantile of their zone."],
        (
            "zone",
            "threshold_usd_per_kwh",
            "mean_with_spikes_usd_per_kwh",
            "mean_without_spikes_usd_per_kwh",
            "max_usd_per_kwh",
            "spike_hours",
            "hours",
        ),
        spikes,
    )


def write_sites(data: Path, out: Path) -> None:
    """Write `sites.csv` and `hardware.csv`."""
    places = {row["zone"]: row for row in _read_csv(data / "zones.csv")}
    write_table(
        out / "sites.csv",
        [
            "A default site for each zone. Place: the usual data-center town. Hardware, gpu_count",
            "and pue are assumed; the pue of cl is the provider's report.",
            "Continents: AF AS EU NA (North America) OC SA.",
        ],
        ("site_id", "name", "zone", "continent", "lat", "lon", "hardware", "gpu_count", "pue"),
        [
            (
                site.site_id,
                places[site.zone]["name"],
                site.zone,
                site.continent,
                places[site.zone]["lat"],
                places[site.zone]["lon"],
                site.hardware,
                LOCAL_GPU_COUNT,
                site.pue,
            )
            for site in SITES
        ],
    )
    write_table(
        out / "hardware.csv",
        [
            "Three rows of hardware, like H100, A100 and L40S servers; every figure is assumed.",
            "speed_ratio: work per hour against `large`; kW per GPU with its share of the host.",
        ],
        (
            "name",
            "gpu_type",
            "speed_ratio",
            "active_kw",
            "idle_kw",
            "usd_per_gpu_h",
            "memory_gb",
            "basis",
        ),
        [
            ("large", "H100", 1.0, 1.0, 0.25, 2.5, 80, "assumed"),
            ("medium", "A100", 0.5, 0.6, 0.15, 1.4, 80, "assumed"),
            ("small", "L40S", 0.35, 0.5, 0.10, 0.9, 48, "assumed"),
        ],
    )


def write_links(data: Path, out: Path) -> None:
    """Write `links.csv`: every directed pair of zones, measured or estimated."""
    places = {row["zone"]: row for row in _read_csv(data / "zones.csv")}
    measured = {
        (row["src_zone"], row["dst_zone"]): row for row in _read_csv(data / "zone_network.csv")
    }
    pairs = [(a, b) for a in SITES for b in SITES if a is not b]

    def fibre_ms(a: SitePlan, b: SitePlan) -> float:
        ends = [(float(places[s.zone]["lat"]), float(places[s.zone]["lon"])) for s in (a, b)]
        return 2 * great_circle_km(ends[0], ends[1]) / FIBRE_KM_PER_MS

    # Cables detour: how far is what the measured pairs say, by their median.
    detour = statistics.median(
        float(row["rtt_avg_ms"]) / fibre_ms(a, b)
        for a, b in pairs
        if (row := measured[a.zone, b.zone])["rtt_avg_ms"]
    )
    rows: list[Sequence[object]] = []
    for a, b in pairs:
        row = measured[a.zone, b.zone]
        gbps = SAME_CONTINENT_GBPS if a.continent == b.continent else OTHER_GBPS
        is_measured = bool(row["rtt_avg_ms"] and row["throughput_gbps"])
        rows.append(
            (
                a.zone,
                b.zone,
                row["rtt_avg_ms"] or f"{fibre_ms(a, b) * detour:.1f}",
                row["throughput_gbps"] or gbps,
                row["egress_usd_per_gb"],
                "measured" if is_measured else "estimated",
            )
        )
    write_table(
        out / "links.csv",
        [
            "Links between cloud regions of the zones: mean RTT, throughput, list price of egress.",
            f"estimated: RTT is {detour:.2f} x light in fibre (200 km/ms) over the great circle,",
            f"rate {SAME_CONTINENT_GBPS} Gbit/s within a continent, {OTHER_GBPS} beyond (assumed).",
        ],
        ("src_zone", "dst_zone", "rtt_ms", "gbps", "egress_usd_per_gb", "basis"),
        rows,
    )


def write_gpu_types(data: Path, out: Path) -> None:
    """Write `gpu_types.csv`."""
    found = {row["name"]: row for row in _read_csv(data / "gpu_types.csv")}
    write_table(
        out / "gpu_types.csv",
        ["GPU types that servers hold: power limit and memory by their data sheets."],
        ("name", "tdp_watts", "memory_gb", "source"),
        [(n, found[n]["tdp_watts"], found[n]["memory_gb"], found[n]["source"]) for n in GPU_NAMES],
    )


def write_models(data: Path, out: Path) -> None:
    """Write `models.csv`."""
    found = {row["name"]: row for row in _read_csv(data / "models.csv")}
    rows = [
        (name, f"{float(found[name]['parameters_b']):g}", _bytes(found[name]["size_gb"]))
        for name in MODEL_NAMES
    ]
    write_table(
        out / "models.csv",
        [
            "Language models as the Ollama library lists them: billions of parameters, and the",
            "size of the default tag, mostly 4-bit. The listing rounds to two digits.",
        ],
        ("name", "parameters_b", "size_bytes"),
        sorted(rows, key=lambda row: (row[2], row[0])),
    )


def _bytes(size_gb: str) -> int:
    # The listing has at most three digits after the point; floats of it do not.
    return round(float(size_gb) * 1000) * 1_000_000


def write_data_sets(data: Path, out: Path) -> None:
    """Write `data_sets.csv`: stated sizes, and estimates where only a count is stated."""
    found: dict[str, dict[str, str]] = {}
    for row in _read_csv(data / "datasets.csv"):
        name = row["name"].split("  [")[0].strip()
        url = row["url"] if row["url"].startswith("https://") else ""
        if name == "C4":  # the source holds its two addresses inside the name
            url = "https://huggingface.co/datasets/c4"
        if url and name not in found:
            found[name] = {**row, "url": url}
    sized = {name: row for name, row in found.items() if row["size_bytes"]}
    # One data set states bytes and tokens, some state bytes and examples: these give the scales.
    per_token = statistics.median(
        float(r["size_bytes"]) / float(r["tokens"]) for r in sized.values() if r["tokens"]
    )
    per_example = statistics.median(
        float(r["size_bytes"]) / float(r["instances"]) for r in sized.values() if r["instances"]
    )
    rows: list[tuple[str, int, str, str]] = [
        (name, int(float(row["size_bytes"])), "stated", row["url"]) for name, row in sized.items()
    ]
    for name in ESTIMATED_DATA_SETS:
        row = found[name]
        scale, count = (
            (per_token, row["tokens"]) if row["tokens"] else (per_example, row["instances"])
        )
        rows.append((name, round(scale * float(count)), "estimated", row["url"]))
    write_table(
        out / "data_sets.csv",
        [
            "Public data sets for language models. estimated: the source states a count only,",
            f"taken as {per_token:.2f} bytes a token or {per_example:.0f} bytes an example, the",
            "medians of the data sets that state both.",
        ],
        ("name", "size_bytes", "basis", "url"),
        sorted(rows, key=lambda row: (row[1], row[0])),
    )


def write_tables(data: Path, out: Path) -> None:
    """Write every table from the files in `data` into the directory `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_carbon_profiles(data, out)
    write_price_profiles(data, out)
    write_sites(data, out)
    write_links(data, out)
    write_gpu_types(data, out)
    write_models(data, out)
    write_data_sets(data, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m testbed.tables", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory of public data")
    parser.add_argument("--out", type=Path, required=True, help="directory for the tables")
    options = parser.parse_args(arguments)
    write_tables(options.data, options.out)


if __name__ == "__main__":
    main()
