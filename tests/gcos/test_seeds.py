import os
import subprocess
import sys

from gcos.seeds import stream

PROGRAM = """
from gcos.seeds import stream
names = {"network", "crash", "workload"}
for name in sorted(names):
    print(name, stream(7, name, 3).integers(0, 2**63, 4).tolist())
"""


def numbers_of(hash_seed: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_same_seed_and_path_give_the_same_numbers_in_any_process() -> None:
    assert numbers_of("1") == numbers_of("2") != ""


def test_the_numbers_never_change() -> None:
    """A recorded value: a change of the derivation would break every published seed."""
    assert stream(0, "network", "a").integers(0, 1000, 4).tolist() == [34, 518, 378, 21]


def test_streams_are_named_by_their_whole_path() -> None:
    paths = [(1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", 1), (1,)]
    firsts = {stream(*path).integers(0, 2**63) for path in paths}
    assert len(firsts) == len(paths)


def test_a_new_consumer_shifts_no_other() -> None:
    alone = stream(1, "a").random(3).tolist()
    other = stream(1, "b")
    beside = stream(1, "a")
    other.random(100)
    assert beside.random(3).tolist() == alone
