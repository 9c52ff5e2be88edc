"""What an operator scrapes is true, well-formed, and nobody pays for it who did not ask."""

import asyncio
import re
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from gcos.accounting import Charge
from gcos.errors import InvalidRequestError, WrongStateError
from gcos.ids import RunId, TaskId
from gcos.rpc.call_counts import CallCounts
from gcos.rpc.metrics_server import serving_metrics
from gcos.system import SystemClock
from policies.maccs.actor import actor_path
from site_agent.config import AgentConfig, completed
from site_agent.metrics import LedgerTotals
from site_agent.wiring import replace_address, run_agent
from testbed.samples import ledger_entry


async def scraped(address: str) -> str:
    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            return answer.read().decode()

    return await asyncio.to_thread(read)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def values_of(text: str) -> dict[tuple[str, ...], float]:
    """Return the samples by name and labels' values."""
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def problems(text: str) -> list[str]:
    """Return what breaks the conventions that `promtool check metrics` holds a page to."""
    found = []
    for family in text_string_to_metric_families(text):
        if not family.documentation:
            found.append(f"{family.name} has no help")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", family.name):
            found.append(f"{family.name} is no snake case")
        if family.type not in ("counter", "gauge", "histogram"):
            found.append(f"{family.name} is {family.type}")
        for sample in family.samples:
            if sample.name.endswith("_total") != (family.type == "counter"):
                found.append(f"{sample.name} of a {family.type}")
            if re.search(r"milli|kilo|minutes|hours|_usd|_(kwh|s|gb)(_total)?$", sample.name):
                found += [] if sample.name.endswith("_per_kwh") else [f"unit of {sample.name}"]
    return found


async def test_a_live_agent_tells_its_state_and_that_an_actor_is_not_used(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("a-token-of-a-test-on-loopback-only")
    token_file.chmod(0o600)
    actors = tmp_path / "actors"
    actors.mkdir()
    whole = actor_path("artifact").read_bytes()
    actor_path("artifact", actors).write_bytes(whole[: len(whole) // 2])  # cut off; no other file
    config = replace_address(
        completed(
            AgentConfig(
                "de",
                data_dir=tmp_path / "data",
                token_file=token_file,
                metrics_address=free_address(),
                policy="maccs",
                actor_dir=actors,
                model_cache_bytes=1000,
            )
        )
    )
    stopping = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run_agent(config, SystemClock(), stopping))
        async with grpc.aio.insecure_channel(config.address) as channel:
            await channel.channel_ready()
            for part in ("artifact", "task"):
                request = health_pb2.HealthCheckRequest(service=f"gcos.actor.{part}")
                call = health_pb2_grpc.HealthStub(channel).Watch(request)
                async for answer in call:
                    if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                        break
                call.cancel()
        text = await scraped(config.metrics_address)
        stopping.set()
    assert problems(text) == []
    values = values_of(text)
    assert values["gcos_actor_in_use", "artifact", ""] == 0
    assert values["gcos_actor_in_use", "task", ""] == 0
    assert values["gcos_actor_fallbacks_total", "artifact", "actor-corrupt"] == 1
    assert values["gcos_actor_fallbacks_total", "artifact", "actor-version"] == 0
    assert values["gcos_actor_fallbacks_total", "task", "actor-missing"] == 1
    assert values["gcos_site_info", "maccs", "de", "DE"] == 1
    assert values["gcos_cache_capacity_bytes", "model"] == 1000
    assert values["gcos_gpus", "H100"] > 0
    assert values["gcos_committed_gpus", "H100"] == 0
    assert values["gcos_tasks", "running"] == 0
    assert values[("process_resident_memory_bytes",)] > 0
    watch = ("Watch", "grpc.health.v1.Health", "server_stream")
    assert values["grpc_server_started_total", *watch] == 2
    assert ("gcos_service_up", "broker") not in values, "there is none to ask"


def test_calls_are_counted_as_other_libraries_count_them() -> None:
    counts = CallCounts()
    announce, lost = "/gcos.v1.SiteService/Announce", "/gcos.v1.SiteService/Unknown"
    for method, code, duration_s in ((announce, "OK", 0.02), (lost, "NOT_FOUND", 20.0)):
        counts.started(method)
        counts.ended(method, code, duration_s)
    counts.started(announce)
    registry = CollectorRegistry()
    registry.register(_Fixed(counts))
    values = values_of(generate_latest(registry).decode())
    labels = ("Announce", "gcos.v1.SiteService", "unary")
    assert values["grpc_server_started_total", *labels] == 2
    assert values["grpc_server_handled_total", "OK", *labels] == 1
    assert values["grpc_server_handled_total", "NotFound", "Unknown", *labels[1:]] == 1
    seconds = "grpc_server_handling_seconds"
    assert values[f"{seconds}_sum", *labels] == 0.02
    assert values[f"{seconds}_bucket", *labels, "0.01"] == 0
    assert values[f"{seconds}_bucket", *labels, "0.025"] == 1
    assert values[f"{seconds}_bucket", "Unknown", *labels[1:], "10.0"] == 0
    assert values[f"{seconds}_count", "Unknown", *labels[1:]] == 1


class _Fixed:
    def __init__(self, counts: CallCounts) -> None:
        self.counts = counts

    def collect(self) -> Iterator[Metric]:
        return self.counts.families()


def one() -> Iterator[Metric]:
    yield GaugeMetricFamily("gcos_one", "One.", value=1.0)


async def test_port_0_takes_a_free_port_and_a_taken_one_is_told_by_its_key() -> None:
    async with serving_metrics("127.0.0.1:0", one) as address:
        assert values_of(await scraped(address))["gcos_one",] == 1.0
        with pytest.raises(WrongStateError, match=f"metrics_address: {address} is taken"):
            async with serving_metrics(address, one):
                pass
    async with serving_metrics(address, one):
        pass  # it was given back


@pytest.mark.parametrize("address", ["9464", "0.0.0.0:9464", "127.0.0.1:http", "127.0.0.1:70000"])
def test_a_bad_address_is_refused_by_name(tmp_path: Path, address: str) -> None:
    config = AgentConfig("de", data_dir=tmp_path, token_file=tmp_path / "token")
    with pytest.raises(InvalidRequestError) as refused:
        completed(replace(config, metrics_address=address))
    assert refused.value.field == "metrics_address"


def test_a_ledger_is_summed_as_it_grows() -> None:
    first, second = (ledger_entry(TaskId(f"de-{number}")) for number in (1, 2))
    totals, ledger = LedgerTotals(), {RunId("1"): first}
    assert totals.over(ledger) == first.charge
    ledger[RunId("2")] = second
    assert totals.over(ledger) == Charge.sum((first.charge, second.charge)) == totals.over(ledger)
    assert totals.entry_count == 2
