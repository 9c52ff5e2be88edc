"""Write the models and data sets: `python -m testbed.workloads.make --out DIR [--seed 7]`.

What is already there, complete and from the same seed, is kept. Writes DIR/models/NAME and
DIR/data/NAME, 67 MB in all. This is the only part of the workload that needs `onnx`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed.workloads.datasets import write_dataset
from testbed.workloads.grammar import GRAMMARS
from testbed.workloads.models import write_model
from testbed.workloads.weights import SHAPES


def make(out: Path, *, seed: int) -> None:
    """Write all artifacts under `out` and print one line for each.

    Raises:
        OSError: `out` cannot be written.
    """
    for grammar in GRAMMARS:
        directory = out / "data" / grammar.name
        _tell(directory, is_written=write_dataset(grammar, directory, seed=seed))
    for shape in SHAPES:
        directory = out / "models" / shape.name
        _tell(directory, is_written=write_model(shape, directory, seed=seed))


def _tell(directory: Path, *, is_written: bool) -> None:
    size_bytes = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{'wrote' if is_written else 'kept '} {directory} ({size_bytes / 1e6:.1f} MB)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, make the artifacts, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m testbed.workloads.make")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    try:
        make(options.out, seed=options.seed)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
