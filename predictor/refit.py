"""Fits a new structure in a process of its own: `python -m predictor.refit LOG FIT`.

The servicer's process must neither wait for a fit nor hold scikit-learn. LOG holds one observation
a line (JSON), and the fit in use; FIT gets the new one, if it wins on runs that neither had seen.
"""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gcos import codec
from gcos.durations import LEVELS, Observation, PoolSpeed
from predictor.features import ln_work
from predictor.fit import Fit
from predictor.records import Finished, Floats, Hyperparameters
from predictor.task_predictor import TaskPredictor, finished

TIMEOUT_S = 600.0
#: Exit code of a fit that did not win; that of an environment without the libraries is 1.
NOT_BETTER = 3
#: Runs new to both, below which nothing can be said.
JUDGED_COUNT_MIN = 30
#: Runs of tasks come with few keys; smaller leaves' worth than in traces is enough.
HYPER = Hyperparameters(head_round_count=100, context_count_max=4000)


def main(log: Path, fit: Path) -> int:
    """Fit on the observations of `log`, write to `fit`, and return the exit code."""
    from predictor.fitting import fit_history  # noqa: PLC0415  only the worker fits

    lines = (log / "observations").read_bytes().splitlines()
    observations = [codec.decode(Observation, line) for line in lines]
    runs = [finished(observation) for observation in observations]
    new, forecasts = fit_history(runs, HYPER, seed=0)
    incumbent = log / "incumbent"
    old = Fit.decoded(incumbent.read_bytes()) if incumbent.exists() else None
    if not is_better(runs, observations, forecasts, old):
        return NOT_BETTER
    fit.write_bytes(new.encoded())
    return 0


def is_better(
    runs: Sequence[Finished],
    observations: Sequence[Observation],
    forecasts: dict[int, Floats],
    old: Fit | None,
) -> bool:
    """Tell whether the new structure's judge beats what is in use, by mean CRPS of ln t.

    Args:
        runs: All, by end.
        observations: The same, as they came.
        forecasts: What the judge told of the newest, counted from the first of them.
        old: The fit in use; None: the trie alone.
    """
    first = len(runs) - len(forecasts)
    since_s = -np.inf if old is None else old.until_s
    judged = [i for i in forecasts if runs[first + i].ended_s > since_s]
    if len(judged) < JUDGED_COUNT_MIN:
        return False
    ln_s = np.log([runs[first + i].seconds for i in judged])
    ours = crps(np.stack([forecasts[i] for i in judged]), ln_s)
    theirs = crps(_incumbent(runs, observations, old, [first + i for i in judged]), ln_s)
    return ours < theirs


def crps(ln_quantiles: Floats, ln_s: Floats) -> float:
    """Return the mean CRPS from 19 quantiles, (n, 19): twice the mean pinball loss.

    Gneiting and Ranjan 2011, eq. 14, as a sum over the levels.
    """
    missed = ln_s[:, None] - ln_quantiles
    return float(2 * np.maximum(LEVELS * missed, (LEVELS - 1) * missed).mean())


def _incumbent(
    runs: Sequence[Finished],
    observations: Sequence[Observation],
    old: Fit | None,
    judged: Sequence[int],
) -> Floats:
    """Return ln quantiles relative to the reference, (n, 19), by what is in use."""
    if old is None:
        return _by_trie(observations, set(judged))
    tree, wanted, told = old.tree(), set(judged), []
    for index, run in enumerate(runs):
        if index in wanted:
            forecast = tree.predict(run.row)
            told.append(np.log(forecast.quantiles_s))
            tree.observe(run.row, run.seconds, forecast.ticket)
        else:
            tree.absorb(run.row, float(np.log(run.seconds)), tree.ticket(run.row))
    return np.stack(told)


def _by_trie(observations: Sequence[Observation], wanted: set[int]) -> Floats:
    predictor, told = TaskPredictor(), []
    for index, observation in enumerate(observations):
        if index in wanted:
            (prediction,) = predictor.predict(
                observation.features, [PoolSpeed(observation.pool_type, 1.0)]
            )
            told.append(np.log(prediction.run_time.quantiles_s) - ln_work(observation.features))
        predictor.observe(observation)
    return np.stack(told)


async def refit(observations: Sequence[Observation], incumbent: bytes | None) -> bytes | None:
    """Fit in a worker process; return the new fit, or None if it does not win or cannot be made."""
    with tempfile.TemporaryDirectory(prefix="gcos-refit-") as scratch:
        directory = Path(scratch)
        document = b"\n".join(codec.encode(observation) for observation in observations)
        await asyncio.to_thread((directory / "observations").write_bytes, document)
        if incumbent is not None:
            await asyncio.to_thread((directory / "incumbent").write_bytes, incumbent)
        fit = directory / "fit"
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "predictor.refit", str(directory), str(fit)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                code = await worker.wait()
        except TimeoutError:
            return None
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
        return await asyncio.to_thread(fit.read_bytes) if code == 0 else None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
