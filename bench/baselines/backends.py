"""Texts to unit vectors by the libraries that people use: sentence-transformers (PyTorch, OpenVINO), ONNX Runtime.

One function a library, each used as its documentation says. Knows no HTTP and no queue. `export` writes the ONNX and
OpenVINO files once, from the model's own folder, offline.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]  # [B, D], of length 1
Encode: TypeAlias = Callable[[Sequence[str]], Vectors]

MAX_BATCH = 32  # the default batch of sentence-transformers and of infinity-emb

# NOTE: libraries are imported by name where they are used: each backend needs its own alone, and they are installed
# in the baselines' environment, not where types are checked.


def sentence_transformers_torch(folder: Path, precision: str) -> Encode:
    """Load the PyTorch backend; `f32` is what it takes by default."""
    torch = import_module("torch")
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    return _sentence_transformer(folder, backend="torch", model_kwargs={"dtype": dtype})


def sentence_transformers_openvino(folder: Path, precision: str) -> Encode:
    """Load the OpenVINO backend; on a processor with native bf16 that is what it takes by default."""
    config = {"INFERENCE_PRECISION_HINT": precision}
    return _sentence_transformer(folder, backend="openvino", model_kwargs={"ov_config": config})


def _sentence_transformer(folder: Path, **options: Any) -> Encode:
    library = import_module("sentence_transformers")
    model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)

    def encode(texts: Sequence[str]) -> Vectors:
        rows = model.encode(
            list(texts), batch_size=MAX_BATCH, convert_to_tensor=True, show_progress_bar=False
        )
        vectors: Vectors = rows.float().numpy()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    return encode


def onnx_runtime(folder: Path, precision: str) -> Encode:
    """Load the exported ONNX file; texts of a call are padded to its longest."""
    if precision != "f32":
        raise SystemExit("onnx: f32 alone; ONNX Runtime's processor kernels have no bf16 for this model")
    runtime, tokenizers = import_module("onnxruntime"), import_module("tokenizers")
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=_max_seq_length(folder))
    tokenizer.enable_padding()  # to the longest of the call; the file asks for a fixed length

    def encode(texts: Sequence[str]) -> Vectors:
        found = tokenizer.encode_batch_fast([text.strip() for text in texts])
        input_ids = np.array([one.ids for one in found], np.int64)  # [B, T]
        mask = np.array([one.attention_mask for one in found], np.int64)  # [B, T]
        feed = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
        hidden = session.run(["last_hidden_state"], feed)[0]  # [B, T, D]
        pooled = np.einsum("btd,bt->bd", hidden, mask.astype(np.float32))  # the length cancels out below
        vectors: Vectors = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors

    return encode


def _max_seq_length(folder: Path) -> int:
    return int(json.loads((folder / "sentence_bert_config.json").read_text("utf-8"))["max_seq_length"])


BACKENDS: dict[str, Callable[[Path, str], Encode]] = {
    "torch": sentence_transformers_torch,
    "openvino": sentence_transformers_openvino,
    "onnx": onnx_runtime,
}


# ---- export ------------------------------------------------------------------------------------------------


def export_onnx(folder: Path) -> None:
    """Write model.onnx beside the model's files. ONNX Runtime fuses it when it loads it.

    Measured: its separate optimiser for BERT made it slower (0.87 to 0.90 of the rate in batches).
    """
    torch, transformers = import_module("torch"), import_module("transformers")
    # NOTE: eager attention and the exporter that traces give the patterns that ONNX Runtime fuses.
    model = transformers.AutoModel.from_pretrained(str(folder), attn_implementation="eager").eval()
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        _traceable(torch, model),
        tuple(torch.ones(2, 8, dtype=torch.int64) for _ in inputs),
        str(folder / "model.onnx"),
        input_names=inputs,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "batch", 1: "length"} for name in [*inputs, "last_hidden_state"]},
        opset_version=17,
        dynamo=False,
    )


def _traceable(torch: Any, model: Any) -> Any:
    """Wrap a model so that it takes its inputs by position, and the mask as what is added to the scores."""

    def forward(self: Any, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        added = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        found = self.model(
            input_ids=input_ids, attention_mask=added, token_type_ids=token_type_ids, return_dict=False
        )
        return found[0]

    wrapper = type("Traceable", (torch.nn.Module,), {"forward": forward})()
    wrapper.model = model
    return wrapper


def export_openvino(folder: Path) -> None:
    """Write openvino/openvino_model.xml beside the model's files, as sentence-transformers exports it."""
    library = import_module("sentence_transformers")
    model = library.SentenceTransformer(
        str(folder), backend="openvino", model_kwargs={"export": True}, local_files_only=True
    )
    model.save_pretrained(str(folder))


def main() -> None:
    """Export into a copy of the model's folder."""
    parser = argparse.ArgumentParser(description="Write the files that a backend loads, once.")
    parser.add_argument("backend", choices=["onnx", "openvino"])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    {"onnx": export_onnx, "openvino": export_openvino}[args.backend](args.folder)


if __name__ == "__main__":
    main()
