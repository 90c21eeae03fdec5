"""Engines: token ids in, pooled vectors out. The protocol that each keeps, and the table of those there are.

An engine knows one model's weights and the machine; nothing of requests, keys, queues or output types.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from senryu.engine.machine import native_precisions
from senryu.errors import SettingError
from senryu.models import ModelSpec
from senryu.types import Batch, Precision, Vectors


class Engine(Protocol):
    """Runs one model. `run` blocks, lets go of the interpreter's lock, and may be called from any thread."""

    name: str
    precision: Precision
    #: The promise that a text's bits depend on the text alone, whatever else is in its batch. Tested per engine.
    reproducible: bool
    #: How many batches run side by side; more callers than that only wait.
    streams: int
    #: Everything about this engine and machine that decides bits: goes into the fingerprint.
    signature: str

    def bucket(self, length: int) -> int:
        """Return the bucket of a text of `length` tokens, at least `length`; texts of one bucket may share a batch."""
        ...

    def computed(self, tokens: int) -> int:
        """Return how many tokens a batch of `tokens` tokens is filled up to."""
        ...

    def run(self, batch: Batch) -> Vectors:
        """Compute pooled vectors, float32 [B, D], one row a text, not normalised.

        Raises EngineError if the batch cannot be computed.
        """
        ...

    def close(self) -> None:
        """Give back threads and memory; `run` must not be called afterwards."""
        ...


# NOTE: imported by name only when chosen, so that no engine's framework is loaded without need.
ENGINES = {
    "openvino": "senryu.engine.openvino:OpenVinoEngine",
    "reference": "senryu.engine.reference:ReferenceEngine",
}


def choose_precision(wanted: str) -> Precision:
    """Resolve `auto` to the fastest native precision. Raises SettingError for one that is not native."""
    native = native_precisions()
    if wanted == "auto":
        return native[0]
    if wanted not in native:
        raise SettingError(
            f"precision {wanted!r} is not native on this processor, and emulated it would be slower and not "
            f"reproducible; it has {', '.join(native)}."
        )
    return Precision(wanted)


def load(spec: ModelSpec, *, precision: Precision, threads: int, engine: str = "openvino") -> Engine:
    """Load a model into an engine. Raises ModelError if its files do not fit the architecture."""
    module, _, attribute = ENGINES[engine].partition(":")
    loaded: Engine = getattr(import_module(module), attribute)(spec, precision=precision, threads=threads)
    return loaded
