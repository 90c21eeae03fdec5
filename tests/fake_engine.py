"""A deterministic engine for tests of scheduling: a vector tells its text and the batch that it ran in."""

from __future__ import annotations

import threading

import numpy as np

from senryu.types import Batch, Precision, Vectors

POISON = 13
NOT_FINITE = 14


class FakeEngine:
    """Row = [first id, number of ids, size of its batch]. Runs only while `open`; fails on POISON."""

    name = "fake"
    precision = Precision.F32
    reproducible = True
    batch_seconds = 0.025
    streams = 1
    loss = None
    signature = "fake"

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.began = threading.Event()
        self.batches: list[list[int]] = []

    def bucket(self, length: int) -> int:
        return -(-length // 4) * 4

    def computed(self, tokens: int) -> int:
        return tokens

    def run(self, batch: Batch) -> Vectors:
        self.began.set()
        assert self.open.wait(30)
        firsts = [int(ids[0]) for ids in np.split(batch.input_ids, np.cumsum(batch.lengths)[:-1])]
        self.batches.append(firsts)
        if POISON in firsts:
            raise RuntimeError("poisoned")
        rows = [[first, length, len(firsts)] for first, length in zip(firsts, batch.lengths, strict=True)]
        vectors = np.array(rows, np.float32)
        vectors[[first == NOT_FINITE for first in firsts]] = np.nan
        return vectors

    def close(self) -> None:
        pass
