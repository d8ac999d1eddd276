"""Counter-based random generators: what a sample draws depends on its key alone.

The same (seed, epoch, anchor, stream) gives the same numbers in any worker, process or order, so the data
are the same for 0 or 16 workers and after a resume.
"""

from __future__ import annotations

import numpy as np

PAIRING_STREAM = 1 << 20  # view v uses stream v; the choice of pictures has its own
ORDER_STREAM = PAIRING_STREAM + 1
REPLACEMENT_STREAM = PAIRING_STREAM + 2
TEXT_STREAM = 1 << 41  # above every replacement stream, which counts on from its start by rows


def keyed_generator(seed: int, epoch: int, anchor: int, stream: int) -> np.random.Generator:
    """Philox generator (Salmon et al. 2011) whose key is (seed, epoch) and whose counter starts at (anchor, stream).

    >>> a = keyed_generator(0, 3, 7, 1).random()
    >>> a == keyed_generator(0, 3, 7, 1).random(), a == keyed_generator(0, 3, 8, 1).random()
    (True, False)
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    counter = np.array([0, 0, stream, anchor], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
