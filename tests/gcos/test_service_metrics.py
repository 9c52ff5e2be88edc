"""Brokers and predictors tell metrics, too."""

import asyncio
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from broker.wiring import BrokerConfig
from broker.wiring import serve as serve_broker
from gcos.errors import InvalidRequestError
from gcos.logs import Log
from gcos.system import SystemClock
from predictor.wiring import PredictorConfig
from predictor.wiring import serve as serve_predictor


class Watched:
    """A log that tells when metrics are served, and where."""

    def __init__(self) -> None:
        self.url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.log: Log = structlog.wrap_logger(None, processors=[self._see])

    def _see(self, _logger: object, _method: str, event: dict[str, str]) -> object:
        if event["event"] == "metrics_serving":
            self.url.set_result(event["url"])
        raise structlog.DropEvent


def token_in(directory: Path) -> Path:
    path = directory / "token"
    path.write_text("a-token-of-a-test-on-loopback-only")
    path.chmod(0o600)
    return path


async def scraped(serve: Callable[[Log, asyncio.Event], Awaitable[None]]) -> dict[str, float]:
    stopping, watched = asyncio.Event(), Watched()

    async def run() -> None:
        await serve(watched.log, stopping)

    def read(url: str) -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(run())
        text = await asyncio.to_thread(read, await watched.url)
        stopping.set()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_broker_tells_how_many_sites_it_knows(tmp_path: Path) -> None:
    config = BrokerConfig(
        "127.0.0.1:0", metrics_address="127.0.0.1:0", token_file=token_in(tmp_path)
    )
    found = await scraped(
        lambda log, stopping: serve_broker(config, stopping, clock=SystemClock(), log=log)
    )
    assert (found["gcos_build_info"], found["gcos_known_sites"]) == (1, 0)


async def test_a_predictor_tells_what_it_rests_on(tmp_path: Path) -> None:
    config = PredictorConfig(
        tmp_path / "data",
        token_file=token_in(tmp_path),
        address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
    )
    found = await scraped(lambda log, stopping: serve_predictor(config, stopping, log=log))
    assert (found["gcos_predictor_finished_runs"], found["gcos_predictor_contexts"]) == (0, 0)


async def test_a_metrics_address_off_loopback_is_refused_by_name(tmp_path: Path) -> None:
    config = BrokerConfig("127.0.0.1:0", metrics_address="0.0.0.0:1", token_file=token_in(tmp_path))
    with pytest.raises(InvalidRequestError) as refused:
        await serve_broker(config, asyncio.Event(), clock=SystemClock(), log=Watched().log)
    assert refused.value.field == "metrics_address"
