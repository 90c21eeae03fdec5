"""Engines: token ids in, pooled vectors out. The protocol that each keeps, and the table of those there are.

An engine knows one model's weights and the machine; nothing of requests, keys, queues or output types.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from senryu import encoders
from senryu.engine import kernels
from senryu.engine.batches import batch_of
from senryu.engine.int8 import Loss
from senryu.engine.kernels import InstructionSet
from senryu.engine.machine import has_tiles, multiplies_int8, native_precisions
from senryu.engine.memory import of_graph, of_native, of_openvino, of_tokenizer
from senryu.errors import ModelError, SettingError
from senryu.models import ModelSpec, find_export, needs_own_code
from senryu.types import Batch, Precision, Vectors

__all__ = [
    "ENGINES",
    "Engine",
    "batch_of",
    "choose_engine",
    "choose_precision",
    "computes",
    "is_ours",
    "load",
    "memory_bytes",
    "runs_int8",
    "suits_kernels",
]

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Runs one model. `run` blocks, lets go of the interpreter's lock, and may be called from any thread."""

    name: str
    precision: Precision
    #: The promise that a text's bits depend on the text alone, whatever else is in its batch. Tested per engine.
    reproducible: bool
    #: How many batches run side by side; more callers than that only wait.
    streams: int
    #: How long a batch should take: long enough for nearly the best rate, so short that nobody waits long behind one.
    batch_seconds: float
    #: What int8 was measured to cost, where it runs.
    loss: Loss | None
    #: Everything about this engine and machine that decides bits: goes into the fingerprint.
    signature: str

    def bucket(self, length: int) -> int:
        """Return the bucket of a text of `length` tokens; texts of one bucket may share a batch."""
        ...

    def computed(self, tokens: int) -> int:
        """Return how many tokens a batch of `tokens` tokens is filled up to."""
        ...

    def run(self, batch: Batch) -> Vectors:
        """Compute a vector a text, float32 [B, D], each brought to length 1 as by `outputs.normalise`.

        So one that cannot be is NaN throughout. Raises EngineError if the batch cannot be computed.
        """
        ...

    def close(self) -> None:
        """Give back threads and memory; `run` must not be called afterwards."""
        ...


# NOTE: imported by name only when chosen, so that no engine's framework is loaded without need.
ENGINES = {
    "exported": "senryu.engine.exported:ExportedEngine",
    "native": "senryu.engine.native:NativeEngine",
    "openvino": "senryu.engine.openvino:OpenVinoEngine",
    "reference": "senryu.engine.reference:ReferenceEngine",
}


def choose_precision(wanted: str) -> Precision:
    """Resolve `auto` to the fastest native precision. Raises SettingError for one that is not native."""
    native = native_precisions()
    if wanted == "auto":
        return native[0]
    if runs_int8():
        native = (*native, Precision.INT8)  # never chosen unasked: it costs quality
    if wanted not in native:
        raise SettingError(
            f"precision {wanted!r} is not native on this processor, and emulated it would be slower and not "
            f"reproducible; it has {', '.join(native)}."
        )
    return Precision(wanted)


def runs_int8() -> bool:
    """Tell whether int8 is faster here than f32: the processor has products of bytes, or our kernels make them."""
    return multiplies_int8() or kernels.run(Precision.INT8)


def choose_engine(spec: ModelSpec, precision: Precision) -> str:
    """Choose our own encoder where one computes the model, by our own kernels where nothing here is faster."""
    if not is_ours(spec):
        return "exported"
    return "native" if suits_kernels(precision) and kernels.run(precision) else "openvino"


def suits_kernels(precision: Precision) -> bool:
    """Tell whether our own kernels take all that this processor has for a precision."""
    # NOTE: they multiply by vectors and not by tiles; for AVX2, bytes as 16 bits, also where it has AVX-VNNI.
    has_more = has_tiles(precision) or (
        precision is Precision.INT8 and multiplies_int8() and kernels.instruction_set() is InstructionSet.AVX2
    )
    return kernels.suit(precision) and not has_more


def is_ours(spec: ModelSpec) -> bool:
    """Tell whether an encoder of ours computes a model, or else the graph that its repository ships."""
    return not find_export(spec.folder) or (bool(spec.weight_files) and computes(spec.config))


def computes(config: Mapping[str, Any]) -> bool:
    """Tell whether an encoder of ours computes the model that a config.json describes.

    NOTE: code that a model brings computes something else, whatever its architecture is called.
    """
    try:
        encoders.find(str(config.get("model_type")), config)
    except ModelError:
        return False
    return not needs_own_code(config)


def load(spec: ModelSpec, *, precision: Precision, threads: int, engine: str = "auto") -> Engine:
    """Load a model into an engine. Raises ModelError if its files do not fit the architecture or the engine."""
    chosen = choose_engine(spec, precision) if engine == "auto" else engine
    if chosen != "exported":
        _check_ours(spec, chosen)
    if engine == "auto" and chosen == "openvino" and suits_kernels(precision):
        logger.warning(
            "%s: OpenVINO computes it, slower than our own kernels would: %s", spec.id, kernels.lack()
        )
    try:
        return _open(chosen, spec, precision, threads)
    except kernels.NotComputed as error:
        if engine != "auto":
            raise SettingError(f"engine: {error} Take 'auto' or 'openvino'.") from None
        logger.info("%s: %s OpenVINO computes it.", spec.id, error)
        return _open("openvino", spec, precision, threads)


def _open(name: str, spec: ModelSpec, precision: Precision, threads: int) -> Engine:
    module, _, attribute = ENGINES[name].partition(":")
    loaded: Engine = getattr(import_module(module), attribute)(spec, precision=precision, threads=threads)
    return loaded


def memory_bytes(spec: ModelSpec, precision: Precision, streams: int, engine: str = "auto") -> int:
    """Return about how many bytes a loaded model takes for itself; what is mapped from its files is not counted.

    Raises ModelError for files that cannot be served.
    """
    chosen = choose_engine(spec, precision) if engine == "auto" else engine
    export = find_export(spec.folder)
    if export and chosen == "exported":
        return of_graph(spec, export, precision, streams) + of_tokenizer(spec)
    _check_ours(spec, chosen)
    if chosen == "native":  # NOTE: what the next batch needs is taken while all streams run
        return of_native(spec, precision, streams + 1) + of_tokenizer(spec)
    return of_openvino(spec, precision, streams) + of_tokenizer(spec)


def _check_ours(spec: ModelSpec, engine: str) -> None:
    """Raise ModelError for a model that its exported graph alone computes."""
    if needs_own_code(spec.config):
        given = spec.config.get("auto_map")
        raise ModelError(
            f"{spec.folder / 'config.json'}: auto_map is {given!r}; the engine {engine!r} does not run a model's own "
            "code; its graph is served with 'exported'."
        )
    if not spec.weight_files:
        raise ModelError(
            f"{spec.folder}: has no safetensors for the engine {engine!r}; its graph is served with 'exported'."
        )
