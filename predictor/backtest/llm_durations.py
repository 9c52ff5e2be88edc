"""Makes durations for requests of LLM services, of which only lengths were published.

    python -m predictor.backtest.llm_durations requests.parquet latencies.csv.gz out.csv

No open trace has both, so arrivals and lengths come from `requests` (columns trace, t_s,
input_tokens, output_tokens) and rates from `latencies` (model, hardware, tensor_parallel,
prompt_size, batch_size, prompt_time and token_time in ms, repeats of each setting):

- Traces, each of which begins at 0, run side by side. Each request goes to one of the measured
  deployments (model, hardware, tensor_parallel), drawn with weights 1/rank.
- Its batch has as many requests as came to its deployment in the ten seconds before it, itself
  included, up to the largest that was measured.
- `duration = prompt_time(input_tokens) + (output_tokens - 1) token_time(batch)`. The first was
  measured alone (batch 1), and is interpolated in ln prompt_size, proportional to the prompt beyond
  the longest one; the second is interpolated in batch_size.
- It is multiplied by the ratio of one repeat to the median of its setting, drawn at random: the
  noise is what was measured.

Output lengths and batches are known to nobody before a run, and are left out of what is written:
trace, submit_s, model, hardware, tensor_parallel, input_tokens, duration_s.
"""

import csv
import sys
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcos.seeds import stream
from predictor.backtest.reading import Table, read

Floats = NDArray[np.float64]

BATCH_WINDOW_S = 10.0
_REQUEST_COLUMNS = ("trace", "t_s", "input_tokens", "output_tokens")
_SETTING_COLUMNS = ("model", "hardware", "tensor_parallel", "prompt_size", "batch_size")
_COLUMNS = ("trace", "submit_s", "model", "hardware", "tensor_parallel", "input_tokens")

#: Model, hardware, tensor_parallel.
Deployment = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured of one deployment.

    Attributes:
        prompt_sizes: Measured prompts in tokens, ascending, at batch 1.
        prompt_s: Time to the first token for each.
        batch_sizes: Measured batches, ascending, at the prompt that has most of them.
        token_s: Time of each further token for each.
    """

    prompt_sizes: Floats
    prompt_s: Floats
    batch_sizes: Floats
    token_s: Floats

    def duration_s(self, input_tokens: float, output_tokens: float, batch: int) -> float:
        """Return seconds of one request in a batch."""
        longest = float(self.prompt_sizes[-1])
        ln_prompt = np.log(min(max(input_tokens, 1.0), longest))
        first_s = float(np.interp(ln_prompt, np.log(self.prompt_sizes), self.prompt_s))
        first_s *= max(1.0, input_tokens / longest)
        each_s = float(np.interp(batch, self.batch_sizes, self.token_s))
        return first_s + max(0.0, output_tokens - 1) * each_s


def rates_of(latencies: Table) -> tuple[dict[Deployment, Rates], Floats]:
    """Return the rates of each deployment, and the ratios of repeats to their medians."""
    prompt_s: dict[tuple[str, ...], list[float]] = defaultdict(list)
    token_s: dict[tuple[str, ...], list[float]] = defaultdict(list)
    columns = latencies.columns
    for place in range(len(latencies.numbers)):
        setting = tuple(str(columns[name][place]) for name in _SETTING_COLUMNS)
        prompt_s[setting].append(_number(columns["prompt_time"][place]) / 1e3)
        token_s[setting].append(_number(columns["token_time"][place]) / 1e3)
    ratios = [
        np.array(repeats) / np.median(repeats) for repeats in token_s.values() if len(repeats) > 2
    ]
    deployments = dict.fromkeys(setting[:3] for setting in prompt_s)
    rates = {}
    for model, hardware, parallel in deployments:
        own = [setting for setting in prompt_s if setting[:3] == (model, hardware, parallel)]
        alone = sorted((float(s[3]), np.median(prompt_s[s])) for s in own if float(s[4]) == 1)
        prompts = [setting[3] for setting in own]
        common = max(dict.fromkeys(prompts), key=prompts.count)
        batched = sorted((float(s[4]), np.median(token_s[s])) for s in own if s[3] == common)
        rates[model, hardware, parallel] = Rates(*np.array(alone).T, *np.array(batched).T)
    return rates, np.concatenate(ratios)


def requests_with_durations(
    requests: Table, rates: dict[Deployment, Rates], ratios: Floats, *, seed: int = 0
) -> list[tuple[object, ...]]:
    """Return rows of `_COLUMNS` and the duration in seconds, in order of submission."""
    random = stream(seed, "llm durations")
    deployments = list(rates)
    weights = 1 / np.arange(1, len(deployments) + 1)
    arrivals = _arrivals(requests)
    picks = random.choice(len(deployments), size=len(arrivals), p=weights / weights.sum())
    noises = random.choice(ratios, size=len(arrivals))
    newest: list[deque[float]] = [deque() for _ in deployments]
    rows = []
    for (submit_s, trace, inputs, outputs), pick, noise in zip(
        arrivals, picks.tolist(), noises.tolist(), strict=True
    ):
        recent = newest[pick]
        recent.append(submit_s)
        while recent[0] <= submit_s - BATCH_WINDOW_S:
            recent.popleft()
        seconds = rates[deployments[pick]].duration_s(inputs, outputs, len(recent)) * noise
        rows.append((trace, submit_s, *deployments[pick], int(inputs), round(seconds, 6)))
    return rows


def _arrivals(requests: Table) -> list[tuple[float, str, float, float]]:
    """Return submission, trace, input and output tokens, in order of submission."""
    arrivals = []
    for trace, *numbers in zip(*(requests.columns[n] for n in _REQUEST_COLUMNS), strict=True):
        t_s, inputs, outputs = (_number(cell) for cell in numbers)
        arrivals.append((t_s, str(trace), inputs, outputs))
    return sorted(arrivals)


def _number(cell: str | float | None) -> float:
    assert cell is not None, "the tables have no holes"
    return float(cell)


def main(arguments: Sequence[str]) -> int:
    """Write the requests with durations; return the exit code."""
    if len(arguments) != 3:
        sys.stderr.write(__doc__ or "")
        return 2
    requests_path, latencies_path, out_path = map(Path, arguments)
    latencies = read(latencies_path, (*_SETTING_COLUMNS, "prompt_time", "token_time"))
    rates, ratios = rates_of(latencies)
    requests = read(requests_path, _REQUEST_COLUMNS)
    with out_path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*_COLUMNS, "duration_s"))
        writer.writerows(requests_with_durations(requests, rates, ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
