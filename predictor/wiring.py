"""Puts one predictor process together: store, recovered tree, server."""

import asyncio
import contextlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gcos.errors import UnavailableError
from gcos.locks import lock_directory
from gcos.logs import Log
from gcos.rpc.memory import pin_malloc_thresholds, settle_collector
from gcos.rpc.metric_families import build_info, gauge
from gcos.rpc.security import read_token, require_loopback
from gcos.rpc.server import serving
from gcos.store import SqliteStore
from predictor.refit import refit
from predictor.servicer import SERVICE_NAME, PredictorServicer, add_to_server, recovered
from predictor.task_predictor import TaskPredictor

if TYPE_CHECKING:
    from prometheus_client.core import Metric

STORE_NAME = "predictor.sqlite"
#: What a fit needs beyond what serving does.
FITTING_MODULES = ("sklearn", "lightgbm", "onnx")


@dataclass(frozen=True, slots=True)
class PredictorConfig:
    """What a predictor is told.

    Attributes:
        data_dir: Observations; one predictor at a time.
        token_file: Secret of the cluster, mode 0600.
        address: `host:port` to serve at; port 0 takes a free one.
        metrics_address: `host:port` on loopback to serve metrics for Prometheus at; port 0 takes a
            free one; empty: none are served.
        log_level: debug, info, warning or error.
    """

    data_dir: Path
    token_file: Path
    address: str = "127.0.0.1:7701"
    metrics_address: str = ""
    log_level: str = "info"


async def serve(config: PredictorConfig, stopping: asyncio.Event, *, log: Log) -> None:
    """Serve predictions until `stopping` is set, then drain.

    Raises:
        InvalidRequestError: The address is not on this machine, or the token file is no good.
        WrongStateError: Another process has the data directory or the address.
        UnavailableError: The data directory cannot be used.
    """
    require_loopback(config.address)
    token = read_token(config.token_file)
    pin_malloc_thresholds()
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock_directory(config.data_dir))
        except OSError as exc:
            raise UnavailableError(
                f"data directory {config.data_dir} cannot be used: {exc.strerror}",
                hint="check --data-dir and its owner",
            ) from exc
        await _serve_locked(config, token, stopping, log)


async def _serve_locked(
    config: PredictorConfig, token: str, stopping: asyncio.Event, log: Log
) -> None:
    async with SqliteStore.open(config.data_dir / STORE_NAME) as store:
        predictor = await recovered(store, log)
        servicer = PredictorServicer(predictor, store)
        async with serving(
            config.address,
            register=[lambda server: add_to_server(servicer, server)],
            service_names=[SERVICE_NAME],
            token=token,
            log=log,
            metrics_address=config.metrics_address,
            families=lambda: _families(predictor),
        ) as running:
            settle_collector()
            known = predictor.describe()
            log.info(
                "predictor_serving",
                address=running.address,
                finished_count=known.finished_count,
                context_count=known.context_count,
            )
            await _until(stopping, servicer, log)
            log.info("predictor_stopping")


def _families(predictor: TaskPredictor) -> "Iterable[Metric]":
    known = predictor.describe()
    return [
        build_info(),
        gauge(
            "gcos_predictor_finished_runs",
            "Runs with a known end that predictions rest on.",
            (),
            [((), known.finished_count)],
        ),
        gauge(
            "gcos_predictor_contexts",
            "Sorts of work that were told apart.",
            (),
            [((), known.context_count)],
        ),
    ]


async def _until(stopping: asyncio.Event, servicer: PredictorServicer, log: Log) -> None:
    """Keep the predictor fitted until `stopping` is set, where the libraries for it are there."""
    if any(importlib.util.find_spec(name) is None for name in FITTING_MODULES):
        log.info("predictor_never_fits", hint="install gcos[predictor] for trees")
        await stopping.wait()
        return
    async with asyncio.TaskGroup() as group:
        fitting = group.create_task(servicer.keep_fitted(refit, log))
        await stopping.wait()
        fitting.cancel()
