"""Regenerate `gcos/v1` from `proto/`; with `--check`, fail if the committed files differ.

Run as `python proto/generate.py [--check]` with the `test` extra installed.
"""

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto"


def generate(out: Path) -> list[Path]:
    """Write the generated modules under `out` and return their paths relative to it."""
    protos = sorted(SOURCES.glob("gcos/v1/*.proto"))
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={SOURCES}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out={out}",
        f"--mypy_grpc_out={out}",
        *[str(path.relative_to(SOURCES)) for path in protos],
    ]
    bin_dir = Path(sys.executable).parent
    subprocess.run(command, check=True, cwd=SOURCES, env={"PATH": f"{bin_dir}:/usr/bin:/bin"})
    for path in out.glob("gcos/v1/*_pb2_grpc.py*"):
        text = path.read_text()
        if not any(line.startswith("class ") for line in text.splitlines()):
            path.unlink()  # a file of messages alone has no service to generate
    return sorted(path.relative_to(out) for path in out.glob("gcos/v1/*_pb2*.py*"))


def drift() -> list[str]:
    """Return the committed files that differ from a fresh generation, and missing or extra ones."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = generate(Path(directory))
        committed = sorted(p.relative_to(ROOT) for p in ROOT.glob("gcos/v1/*_pb2*.py*"))
        wrong = [str(p) for p in sorted(set(fresh) ^ set(committed))]
        wrong += [
            str(path)
            for path in sorted(set(fresh) & set(committed))
            if not filecmp.cmp(Path(directory) / path, ROOT / path, shallow=False)
        ]
        return wrong


def main() -> int:
    """Generate or check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    if parser.parse_args().check:
        wrong = drift()
        for path in wrong:
            print(f"{path} differs from proto/; run: python proto/generate.py")
        return 1 if wrong else 0
    for path in generate(ROOT):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
