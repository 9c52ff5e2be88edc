"""What both jobs share: command line, environment, report, errors and the end on SIGTERM.

The environment names the inputs: `GCOS_MODEL_DIR`, `GCOS_DATA_DIR`, and `GCOS_OUTPUT_DIR`, which
defaults to the current directory.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gcos.clock import Clock
from gcos.errors import ArtifactNotFoundError, GcosError, InvalidRequestError
from gcos.system import SystemClock
from testbed.workloads.language_model import LanguageModel

#: What a shell reports for a process that SIGTERM ended: 128 + 15.
TERMINATED_EXIT_CODE = 143
INPUT_EXIT_CODE = 2
#: A job prints about this many lines of progress.
_PROGRESS_LINES = 10
_SEQUENCE_MIN = 4


@dataclass(frozen=True, slots=True)
class Directories:
    """Where a job reads and writes."""

    model: Path
    data: Path
    output: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Directories":
        """Read the three variables and make the output directory.

        Raises:
            ArtifactNotFoundError: An input's variable is unset or names no directory.
            InvalidRequestError: The output directory cannot be made.
        """
        output = Path(environment.get("GCOS_OUTPUT_DIR") or ".")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequestError(f"GCOS_OUTPUT_DIR: {output}: {error.strerror}") from error
        return cls(
            _input_directory(environment, "GCOS_MODEL_DIR"),
            data=_input_directory(environment, "GCOS_DATA_DIR"),
            output=output,
        )


def _input_directory(environment: Mapping[str, str], variable: str) -> Path:
    value = environment.get(variable)
    if not value:
        raise ArtifactNotFoundError(f"{variable} is not set")
    if not Path(value).is_dir():
        raise ArtifactNotFoundError(f"{variable}: {value} is not a directory")
    return Path(value)


@dataclass(slots=True)
class Progress:
    """Prints a line for about each tenth of the work, and the report at the end."""

    kind: str
    tokens_count: int
    clock: Clock
    started_s: float
    _told_count: int = 0

    def tell(self, done_count: int) -> None:
        """Print how far the job is, unless the last line was less than a tenth ago."""
        if (done_count - self._told_count) * _PROGRESS_LINES < self.tokens_count:
            return
        self._told_count = done_count
        elapsed_s = self.clock.protocol_s() - self.started_s
        print(
            f"{self.kind}: {done_count}/{self.tokens_count} tokens in {elapsed_s:.1f} s", flush=True
        )

    def report(self, facts: Mapping[str, object]) -> None:
        """Print the final line: one JSON object, the clock read once loading was over."""
        run_s = max(self.clock.protocol_s() - self.started_s, 1e-9)
        record = {
            "kind": self.kind,
            "tokens": self.tokens_count,
            "run_s": round(run_s, 3),
            "tokens_per_s": round(self.tokens_count / run_s, 1),
            **facts,
        }
        print(json.dumps(record), flush=True)


def positive(text: str) -> int:
    """Return the integer in `text`, at least 1, for argparse.

    Raises:
        ValueError: It is none.
    """
    if (value := int(text)) < 1:
        raise ValueError
    return value


def parser(module: str, *, sequence_default: int) -> argparse.ArgumentParser:
    """Return a parser of the options that both jobs take."""
    options = argparse.ArgumentParser(prog=f"python -m testbed.workloads.{module}")
    options.add_argument("--tokens", type=positive, required=True, metavar="N")
    options.add_argument("--batch", type=positive, default=1, metavar="B")
    options.add_argument("--sequence", type=positive, default=sequence_default, metavar="L")
    return options


def check_sequence(sequence: int, model: LanguageModel) -> None:
    """Refuse a sequence that the model cannot hold, or too short for a prompt and an answer.

    Raises:
        InvalidRequestError: It is outside 4 to the model's context.
    """
    if not _SEQUENCE_MIN <= sequence <= model.config.context:
        raise InvalidRequestError(
            f"--sequence {sequence}: {model.config.name} takes "
            f"{_SEQUENCE_MIN} to {model.config.context} tokens"
        )


def end_on_sigterm() -> None:
    """Make SIGTERM end the process at once with code 143.

    Python runs signal handlers between bytecodes, so one that arrives inside onnxruntime would
    wait for the whole batch. The wake-up pipe is written from the C handler instead, and a thread
    that reads it ends the process. Outputs are renamed into place when whole, so none is torn.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)  # else no C handler is installed

    def watch() -> None:
        while os.read(reader, 1) != bytes([signal.SIGTERM]):
            pass
        os._exit(TERMINATED_EXIT_CODE)

    threading.Thread(target=watch, name="sigterm", daemon=True).start()


def publish(path: Path, text: str) -> None:
    """Write an output whole or not at all.

    Raises:
        InvalidRequestError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise InvalidRequestError(f"cannot write {path}: {error.strerror}") from error


def run(
    kind: str, work: Callable[[LanguageModel, Directories, Progress], None], *, tokens_count: int
) -> int:
    """Load the model, do the work, return the exit code; input errors become one line."""
    clock = SystemClock()
    try:
        directories = Directories.from_environment(os.environ)
        model = LanguageModel.load(directories.model)
        progress = Progress(
            kind, tokens_count=tokens_count, clock=clock, started_s=clock.protocol_s()
        )
        print(f"{kind}: loaded {model.config.name}, {tokens_count} tokens to go", flush=True)
        work(model, directories, progress)
    except GcosError as error:
        print(f"error: {error}", file=sys.stderr)
        return INPUT_EXIT_CODE
    return 0
