"""BLAKE2b of a short text (RFC 7693), for the tie-break of `policies.baselines.rules`."""

import numpy as np
from numpy.typing import NDArray

from testbed.fast.compiled import compiled

#: Longest text: one block.
TEXT_BYTES_MAX = 128
#: Digest of 8 bytes, no key, fanout and depth 1.
_PARAMETERS = np.uint64(0x01010008)
_IV = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    dtype=np.uint64,
)
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    dtype=np.int64,
)
#: Words of each mixing step: columns, then diagonals.
_LANES = np.array(
    [
        [0, 4, 8, 12],
        [1, 5, 9, 13],
        [2, 6, 10, 14],
        [3, 7, 11, 15],
        [0, 5, 10, 15],
        [1, 6, 11, 12],
        [2, 7, 8, 13],
        [3, 4, 9, 14],
    ],
    dtype=np.int64,
)
_HASH_RANGE = 2.0**64


@compiled
def _rotated(word: np.uint64, count: int) -> np.uint64:
    return (word >> np.uint64(count)) | (word << np.uint64(64 - count))


@compiled
def uniform(task_text: NDArray[np.uint8], site_text: NDArray[np.uint8]) -> float:
    """Return a number in [0, 1) that task and site determine: `policies.baselines.rules.uniform`.

    Both texts are padded with zeros; together with a slash they fit `TEXT_BYTES_MAX`.
    """
    block = np.zeros(16, dtype=np.uint64)
    length = 0
    for part in range(3):
        text = task_text if part == 0 else site_text
        count = 1 if part == 1 else len(text)
        for k in range(count):
            byte = 47 if part == 1 else int(text[k])
            if byte == 0:
                break
            block[length >> 3] |= np.uint64(byte) << np.uint64(8 * (length & 7))
            length += 1
    first = _IV[0] ^ _PARAMETERS
    v = np.empty(16, dtype=np.uint64)
    for k in range(8):
        v[k] = _IV[k]
        v[k + 8] = _IV[k]
    v[0] = first
    v[12] ^= np.uint64(length)
    v[14] = ~v[14]
    for turn in range(12):
        for step in range(8):
            a, b, c, d = _LANES[step, 0], _LANES[step, 1], _LANES[step, 2], _LANES[step, 3]
            v[a] = v[a] + v[b] + block[_SIGMA[turn, 2 * step]]
            v[d] = _rotated(v[d] ^ v[a], 32)
            v[c] = v[c] + v[d]
            v[b] = _rotated(v[b] ^ v[c], 24)
            v[a] = v[a] + v[b] + block[_SIGMA[turn, 2 * step + 1]]
            v[d] = _rotated(v[d] ^ v[a], 16)
            v[c] = v[c] + v[d]
            v[b] = _rotated(v[b] ^ v[c], 63)
    word = first ^ v[0] ^ v[8]
    number = np.uint64(0)
    for k in range(8):  # the digest is the word's bytes from the lowest on, read from the highest
        number = (number << np.uint64(8)) | ((word >> np.uint64(8 * k)) & np.uint64(255))
    return float(number) / _HASH_RANGE
