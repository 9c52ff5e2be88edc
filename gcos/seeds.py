"""The seam for chance: named streams from one seed, so that a new consumer shifts no other."""

import hashlib

import numpy as np


def stream(seed: int, *path: str | int) -> np.random.Generator:
    """Return the generator that belongs to `path` under `seed`.

    The path is hashed (SHA-256), so streams are independent of each other, of the order in which
    they are asked for, and of `PYTHONHASHSEED`.
    """
    text = "/".join([str(seed), *map(str, path)])
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
