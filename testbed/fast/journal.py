"""The log of a compiled run: the very lines of `testbed.sim.books`, and what is told of waits."""

import hashlib
from array import array
from typing import TextIO

import msgspec
import numpy as np

from gcos.accounting import S_PER_H
from testbed.fast import layout
from testbed.fast.layout import Records, State
from testbed.sim.instance import Instance


class Journal:
    """Takes the lines of a run, block by block.

    Args:
        instance: The world.
        log: Where the lines of `log.jsonl` go; None: nowhere.
        is_hashed: Hash the lines; takes as long as the run itself.
    """

    def __init__(self, instance: Instance, log: TextIO | None, *, is_hashed: bool) -> None:
        self._instance = instance
        self._log = log
        self._is_told = is_hashed or log is not None
        self._hash = hashlib.sha256()
        self._encode = msgspec.json.Encoder().encode
        self._artifacts = [each.artifact.name for each in instance.upstreams]
        self._whole, self._measured = array("d"), array("d")

    @property
    def trace_hash(self) -> str:
        """Digest of every line so far; empty where they are not hashed."""
        return self._hash.hexdigest() if self._is_told else ""

    def waits_s(self, *, is_measured: bool) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        """Return the time from arrival to start of each task that has ended."""
        return np.array(self._measured if is_measured else self._whole)

    def take(self, state: State) -> None:
        """Take over the lines that wait, and make room for others."""
        lines = state.lines[: int(state.g[0]["log_count"])]
        runs = lines[lines["kind"] == layout.RUN]
        arrivals_s = state.tasks["arrival_s"][runs["task"]]
        waits_s = runs["begin_s"] - arrivals_s
        begin_s, end_s = self._instance.measured_s
        self._whole.frombytes(waits_s.tobytes())
        is_measured = (begin_s <= arrivals_s) & (arrivals_s < end_s)
        self._measured.frombytes(waits_s[is_measured].tobytes())
        if self._is_told:
            for line in lines:
                self._write(line)
        state.g[0]["log_count"] = 0

    def _write(self, line: Records) -> None:
        kind, site = int(line["kind"]), int(line["site"])
        begin_h, end_h = self._h(float(line["begin_s"])), self._h(float(line["end_s"]))
        task = int(line["task"])
        name = None if task < 0 else self._instance.tasks[task].task_id
        told: dict[str, object]
        if kind == layout.TRANSFER:
            told = {
                "e": "transfer",
                "t0": begin_h,
                "t1": end_h,
                "src": int(line["source"]),
                "dst": site,
                "artifact": self._artifacts[int(line["artifact"])],
                "task": name,
                "stored": bool(line["is_stored"]),
            }
        elif kind == layout.EVICT:
            artifact = self._artifacts[int(line["artifact"])]
            told = {"e": "evict", "t": begin_h, "site": site, "artifact": artifact}
        else:
            word = "run" if kind == layout.RUN else "abort"
            told = {"e": word, "task": name, "site": site, "t0": begin_h, "t1": end_h}
        text = self._encode(told)
        self._hash.update(text)
        if self._log is not None:
            self._log.write(text.decode() + "\n")

    def _h(self, at_s: float) -> float:
        return (at_s - self._instance.start_s) / S_PER_H
