"""A graph that a model's repository ships, ONNX or OpenVINO's own format, run on the processor as it is.

Knows the graph's inputs and outputs, padded rows and pooling over them. It computes whatever the file says, so it
promises less than an engine whose every operation is ours: see `reproducible`.
"""

from __future__ import annotations

import hashlib
import json
import queue
import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from senryu.engine.batches import prompt_lengths
from senryu.engine.int8 import Loss
from senryu.engine.machine import native_precisions, processor_name
from senryu.errors import EngineError, ModelError, SettingError
from senryu.models import ModelSpec, Pooling, export_files, find_export, hash_files
from senryu.outputs import normalise
from senryu.types import Batch, Precision, Vectors

# NOTE: see engine/openvino.py: this module of openvino would write into the user's home and look up a host.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402

Node: TypeAlias = Any

# (up to this length, in steps of this width). NOTE: a row's width follows from its text alone: its bits do, too.
ROW_STEPS: tuple[tuple[int, int], ...] = ((256, 16), (512, 32), (1 << 30, 64))

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
PROMPT_LENGTHS = "prompt_lengths"  # put beside them where the model's pooling leaves its prompts out
TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
TEXT_OUTPUT = "sentence_embedding"

# NOTE: part of the fingerprint; raise it with every change of the nodes that are put behind a graph.
GRAPH = 1

KERNEL_CACHE_ENTRIES = 128  # kernels kept per shape

_QUANTISED = ("i8", "u8", "i4", "u4")


class ExportedEngine:
    """One exported graph compiled for the processor; up to `streams` batches run side by side."""

    name = "exported"
    batch_seconds = 0.025
    loss: Loss | None = None

    def __init__(self, spec: ModelSpec, *, precision: Precision, threads: int) -> None:
        """Read and compile. Raises ModelError for a graph that cannot be served, SettingError for the precision."""
        if precision is Precision.INT8:
            raise SettingError(
                "precision 'int8' needs an encoder of ours; an exported graph is served as it is."
            )
        if precision not in native_precisions():
            raise SettingError(f"precision {precision.value!r} is not native on {processor_name()}.")
        export = find_export(spec.folder)
        if export is None:
            raise ModelError(f"{spec.folder}: has neither openvino/openvino_model.xml nor onnx/model.onnx.")
        files = export_files(spec.folder, export)
        self.precision = precision
        self.streams = threads
        self.loss = None
        self._path = spec.folder / export
        self._longest = spec.max_seq_length
        self._pad = _pad_token(spec)
        self._core = ov.Core()
        graph = _Graph(self._core, spec, export)
        # NOTE: a quantised graph may scale by the largest number of the whole batch, and what a graph does to pooled
        # vectors depends on how many there are. Tokens' rows in floating point do not touch each other: tested.
        self.reproducible = not graph.is_quantised and not graph.pools
        self.signature = self._signature(hash_files(spec.folder, files))
        self._types = graph.types
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        compiled = self._compile(graph.model)
        for _ in range(self.streams):
            self._requests.put(compiled.create_infer_request())
        self._try_out(spec.dimensions)

    def _signature(self, hashes: dict[str, str]) -> str:
        graph = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
        return f"exported openvino-{ov.__version__} {self.precision} {GRAPH} {ROW_STEPS} {graph} {processor_name()}"

    def _compile(self, model: ov.Model) -> Any:
        properties = {
            "INFERENCE_PRECISION_HINT": self.precision.value,
            "EXECUTION_MODE_HINT": "PERFORMANCE",
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.streams,
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNEL_CACHE_ENTRIES,
        }
        try:
            return self._core.compile_model(model, "CPU", properties)
        except RuntimeError as error:
            raise ModelError(f"{self._path}: cannot be compiled: {_last_line(error)}") from None

    def _try_out(self, dimensions: int) -> None:
        """Run two texts at the start: a graph that cannot is refused here, not at the first request."""
        lengths = np.array([3, min(20, self._longest)], np.int32)
        try:
            vectors = self.run(Batch(np.ones(lengths.sum(), np.int32), lengths))
        except EngineError as error:
            raise ModelError(f"{self._path}: cannot be run: {_last_line(error)}") from None
        if vectors.shape != (2, dimensions):
            given = " × ".join(map(str, vectors.shape[1:]))
            raise ModelError(
                f"{self._path}: gives {given} numbers a text; the model's files say {dimensions}."
            )

    def bucket(self, length: int) -> int:
        # NOTE: not beyond the model's longest: it may have no position embeddings there.
        return min(_next_step(length), max(self._longest, length))

    def computed(self, tokens: int) -> int:
        return tokens  # rows are filled up, by how much their number alone does not tell

    def run(self, batch: Batch) -> Vectors:
        arrays = self._lay_out(batch)
        tensors = [ov.Tensor(arrays[name].astype(kind), shared_memory=True) for name, kind in self._types]
        request = self._requests.get()
        try:
            for index, tensor in enumerate(tensors):
                request.set_input_tensor(index, tensor)
            request.start_async()
            request.wait()
            return normalise(np.asarray(request.get_output_tensor(0).data, np.float32))  # [B, D]
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on a batch of {len(batch.lengths)}: {error}") from error
        finally:
            self._requests.put(request)

    def _lay_out(self, batch: Batch) -> dict[str, NDArray[Any]]:
        places = np.arange(self.bucket(int(batch.lengths.max())))  # [L]
        is_token = places < batch.lengths[:, None]  # [B, L]
        input_ids = np.full(is_token.shape, self._pad, np.int64)
        input_ids[is_token] = batch.input_ids
        return {
            "input_ids": input_ids,
            "attention_mask": is_token.astype(np.int64),
            "token_type_ids": np.zeros_like(input_ids),
            "position_ids": np.repeat(places[None], len(is_token), axis=0),
            PROMPT_LENGTHS: prompt_lengths(batch),
        }

    def close(self) -> None:
        for _ in range(self.streams):
            self._requests.get()


class _Graph:
    """The file's graph with the model's pooling behind it."""

    def __init__(self, core: ov.Core, spec: ModelSpec, export: str) -> None:
        self._path = spec.folder / export
        model = self._read(core)
        self.is_quantised = any(
            output.get_element_type().get_type_name() in _QUANTISED
            for node in model.get_ops()
            for output in node.outputs()
        )
        self._parameters = {self._input_name(node): node for node in model.get_parameters()}
        if not {"input_ids", "attention_mask"} <= self._parameters.keys():
            raise self._error(
                f"its inputs are {', '.join(self._parameters)}; it needs input_ids and attention_mask"
            )
        self._let_shapes_vary(model)
        self.pools = False
        vectors = op.convert(self._vectors(model, spec), "f32")
        self.model = ov.Model([vectors], list(self._parameters.values()), spec.id)
        # The parameters in their order, and what NumPy calls the type that each takes.
        self.types = [(name, node.get_element_type().to_dtype()) for name, node in self._parameters.items()]

    def _error(self, problem: str) -> ModelError:
        return ModelError(f"{self._path}: {problem}.")

    def _read(self, core: ov.Core) -> ov.Model:
        try:
            return core.read_model(self._path)
        except RuntimeError as error:
            raise self._error(f"cannot be read: {_last_line(error)}") from None

    def _input_name(self, node: Node) -> str:
        names = node.output(0).get_names() | {node.get_friendly_name()}
        name = next((name for name in INPUTS if name in names), None)
        if name is None:
            raise self._error(f"asks for the input {min(names)!r}; served are {', '.join(INPUTS)}")
        return name

    def _let_shapes_vary(self, model: ov.Model) -> None:
        any_size = ov.PartialShape([-1, -1])
        if all(node.get_partial_shape() == any_size for node in self._parameters.values()):
            return
        try:
            model.reshape({node.output(0): any_size for node in self._parameters.values()})
        except RuntimeError as error:
            raise self._error(f"was exported for texts of one size: {_last_line(error)}") from None

    def _vectors(self, model: ov.Model, spec: ModelSpec) -> Node:
        """Return the texts' vectors [B, D]: pooled here from the tokens', or as the graph itself pools them."""
        results = model.get_results()
        by_name = {name: result.input_value(0) for result in results for name in result.output(0).get_names()}
        tokens = next((by_name[name] for name in TOKEN_OUTPUTS if name in by_name), None)
        text = by_name.get(TEXT_OUTPUT)
        if len(results) == 1 and tokens is None and text is None:
            only = results[0].input_value(0)
            tokens, text = (only, None) if len(only.get_partial_shape()) == 3 else (None, only)
        if text is not None and (tokens is None or spec.modules):
            if spec.prompts and not spec.include_prompt:
                raise self._error(
                    "pools by itself, and the model's pooling leaves the tokens of its prompts out"
                )
            self.pools = True
            return text
        if spec.modules:
            kind = type(spec.modules[0]).__name__
            raise self._error(
                f"ends before the model's {kind} module, which is not served behind an exported graph"
            )
        if tokens is None:
            wanted = ", ".join((*TOKEN_OUTPUTS, TEXT_OUTPUT))
            raise self._error(f"its outputs are {', '.join(sorted(by_name))}; it needs one of {wanted}")
        mask = self._parameters["attention_mask"]
        if spec.include_prompt:
            return _pool(tokens, mask, spec.pooling)
        prompts = op.parameter([-1], np.int32, name=PROMPT_LENGTHS)
        self._parameters[PROMPT_LENGTHS] = prompts
        return _pool_behind(tokens, mask, spec.pooling, op.unsqueeze(prompts, _ints(1)))


def _pool(tokens: Node, attention_mask: Node, pooling: Pooling, is_pooled: Node | None = None) -> Node:
    """Reduce [B, L, hidden] to [B, hidden] as sentence-transformers' Pooling does; texts begin at 0.

    `is_pooled` [B, L]: of all tokens those that count.
    """
    tokens = op.convert(tokens, "f32")
    mask = op.convert(attention_mask, "f32")  # [B, L]
    chosen = op.convert(attention_mask, "boolean") if is_pooled is None else is_pooled
    lengths = op.reduce_sum(mask, _ints([1]), keep_dims=True)  # [B, 1]
    match pooling:
        case Pooling.CLS:
            return op.gather(tokens, _ints(0), _ints(1))
        case Pooling.LAST_TOKEN:
            return _at(tokens, op.convert(op.subtract(lengths, _floats(1.0)), "i32"))
        case Pooling.MAX:
            rows = op.select(op.unsqueeze(chosen, _ints(2)), tokens, _floats(-np.inf))
            return op.reduce_max(rows, _ints([1]), keep_dims=False)
        case Pooling.WEIGHTED_MEAN:
            mask = op.cum_sum(mask, _ints(1))
            # the weights 1, 2, …, n have the sum n(n + 1)/2
            lengths = op.multiply(op.multiply(lengths, op.add(lengths, _floats(1.0))), _floats(0.5))
    if is_pooled is not None:
        lengths = op.reduce_sum(op.select(is_pooled, mask, _floats(0.0)), _ints([1]), keep_dims=True)
    # NOTE: chosen, not multiplied by 0: what stands behind a text may be no number.
    weighted = op.multiply(tokens, op.unsqueeze(mask, _ints(2)))
    weighted = op.select(op.unsqueeze(chosen, _ints(2)), weighted, _floats(0.0))
    total = op.reduce_sum(weighted, _ints([1]), keep_dims=False)
    return op.divide(total, op.sqrt(lengths) if pooling is Pooling.MEAN_SQRT_LEN else lengths)


def _pool_behind(tokens: Node, attention_mask: Node, pooling: Pooling, prompts: Node) -> Node:
    """Reduce what stands behind the first `prompts` [B, 1] tokens; see PooledOps.pool."""
    mask = op.convert(attention_mask, "i32")
    is_left = op.less(prompts, op.reduce_sum(mask, _ints([1]), keep_dims=True))  # [B, 1]
    if pooling is Pooling.CLS:
        return _at(op.convert(tokens, "f32"), op.select(is_left, prompts, _ints(0)))
    is_behind = op.greater(op.cum_sum(mask, _ints(1)), prompts)  # [B, L]
    is_pooled = op.logical_and(is_behind, op.convert(attention_mask, "boolean"))
    return op.select(is_left, _pool(tokens, attention_mask, pooling, is_pooled), _floats(0.0))


def _at(tokens: Node, places: Node) -> Node:
    """Return the token at one place of each text, [B, hidden]; `places` [B, 1]."""
    return op.squeeze(op.gather(tokens, places, _ints(1), batch_dims=1), _ints(1))


def _ints(value: int | list[int]) -> Node:
    return op.constant(np.array(value, np.int32))


def _floats(value: float) -> Node:
    return op.constant(np.array(value, np.float32))


def _next_step(length: int) -> int:
    return next(-(-length // width) * width for up_to, width in ROW_STEPS if length <= up_to)


def _pad_token(spec: ModelSpec) -> int:
    given = spec.config.get("pad_token_id")
    return given if isinstance(given, int) and given >= 0 else 0


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip(" -.")
