"""A tiny BERT in the files of a sentence-transformers repository, and what it must answer.

Writes every file by hand, with random weights from a seed. `Reference` reads such a folder, a real model's
too, and computes its vectors in float64 after the BERT paper. It must share no code with senryu.
"""

from __future__ import annotations

import json
import math
import string
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

FOUR_PROMPTS = {
    "search_query": "search_query: ",
    "search_document": "search_document: ",
    "classification": "classification: ",
    "clustering": "clustering: ",
}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *("search", "query", "document", "classification", "clustering", "hello", "world", "the", "of", "and"),
    *("frog", "pond", "leap", "water", "sound", "old", "moon", "autumn", "rain", "crow", "branch", "snow"),
)
CJK = "古池蛙水音月雪花"


def vocabulary(words: Iterable[str] = WORDS) -> dict[str, int]:
    """Return token → id: special tokens, characters, continued characters, words, CJK."""
    letters = string.ascii_lowercase + string.digits
    continued = ["##" + letter for letter in letters] + ["##s", "##ing", "##ed"]
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *letters, *string.punctuation, *continued, *words, *CJK])
    return {token: index for index, token in enumerate(tokens)}


def make_model(
    folder: Path,
    *,
    prompts: Mapping[str, str] | None = None,
    matryoshka: Sequence[int] | None = None,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    max_seq_length: int = 64,
    words: Iterable[str] = WORDS,
    seed: int = 0,
) -> Path:
    """Write a complete model folder and return it; equal arguments give equal bytes.

    NOTE: tokenizer.json carries truncation and fixed padding to 128, the trap in the default model's files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocab = vocabulary(words)
    config = _config(len(vocab), layers, hidden, heads, positions=2 * max_seq_length)
    if matryoshka is not None:
        config["matryoshka_dimensions"] = list(matryoshka)
    write_safetensors(folder / "model.safetensors", _weights(config, np.random.default_rng(seed)))
    _tokenizer(vocab).save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    for name, content in _json_files(config, prompts, max_seq_length).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2), "utf-8")
    return folder


def make_from_shapes(
    folder: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    *,
    pooling: str = "mean",
    modules: Mapping[str, Mapping[str, Any]] | None = None,
    max_seq_length: int = 160,
    dtype: str = "F32",
) -> Path:
    """Write a model folder of any architecture, with random weights of these shapes, and return it.

    `modules`: path → config.json of what stands behind the pooling, with its "type", and "shapes" of its weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", random_weights(shapes), dtype)
    _tokenizer(vocabulary()).save(str(folder / "tokenizer.json"))
    files = _json_files({"hidden_size": 1, **config}, None, max_seq_length)
    files["config.json"] = config
    width = config.get("hidden_size", config.get("dim"))
    files["1_Pooling/config.json"] = {"embedding_dimension": width, "pooling_mode": pooling}
    files["modules.json"] = files["modules.json"][:2]
    for path, module in (modules or {}).items():
        kind = f"sentence_transformers.models.{module['type']}"
        files["modules.json"] += [{"idx": 2, "name": path, "path": path, "type": kind}]
        files[f"{path}/config.json"] = {k: v for k, v in module.items() if k not in ("type", "shapes")}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2), "utf-8")
    for path, module in (modules or {}).items():
        if "shapes" in module:
            write_safetensors(folder / path / "model.safetensors", random_weights(module["shapes"]), dtype)
    return folder


def random_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """Return tensors that follow from their names and shapes alone, of sizes that keep activations near 1.

    NOTE: RandomState, because NumPy promises that its streams stay as they are.
    """
    weights = {}
    for name, shape in shapes.items():
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
        if name.endswith("bias"):
            values *= 0.1
        elif len(shape) == 1:
            values = 1.0 + 0.1 * values
        elif "embed" not in name and "relative" not in name:
            values *= 1.5 / math.sqrt(shape[-1])
        weights[name] = values.astype(np.float32)
    return weights


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[np.float32]], dtype: str = "F32") -> None:
    """Write the safetensors format: header length (u64), header (JSON), little-endian data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    stored = {name: _stored(tensor, dtype) for name, tensor in tensors.items()}
    for name, tensor in stored.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    data = b"".join(tensor.tobytes() for tensor in stored.values())
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def _stored(tensor: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == "BF16":  # the upper half of a float32, cut off
        return (tensor.astype("<f4").view("<u4") >> 16).astype("<u2")
    return tensor.astype({"F32": "<f4", "F16": "<f2"}[dtype])


def _config(vocab_size: int, layers: int, hidden: int, heads: int, positions: int) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": 4 * hidden,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": positions,
        "model_type": "bert",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": vocab_size,
    }


def _weights(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    weights: dict[str, NDArray[np.float32]] = {}

    def normal(name: str, *shape: int, scale: float, mean: float = 0.0) -> None:
        weights[name] = rng.normal(mean, scale, shape).astype(np.float32)

    def linear(name: str, outputs: int, inputs: int) -> None:
        normal(f"{name}.weight", outputs, inputs, scale=1.5 / math.sqrt(inputs))
        normal(f"{name}.bias", outputs, scale=0.1)

    def layer_norm(name: str) -> None:
        normal(f"{name}.weight", hidden, scale=0.1, mean=1.0)
        normal(f"{name}.bias", hidden, scale=0.1)

    normal("embeddings.word_embeddings.weight", config["vocab_size"], hidden, scale=1.0)
    normal("embeddings.position_embeddings.weight", config["max_position_embeddings"], hidden, scale=0.3)
    normal("embeddings.token_type_embeddings.weight", config["type_vocab_size"], hidden, scale=0.3)
    layer_norm("embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{prefix}.attention.self.{part}", hidden, hidden)
        linear(f"{prefix}.attention.output.dense", hidden, hidden)
        layer_norm(f"{prefix}.attention.output.LayerNorm")
        linear(f"{prefix}.intermediate.dense", inner, hidden)
        linear(f"{prefix}.output.dense", hidden, inner)
        layer_norm(f"{prefix}.output.LayerNorm")
    linear("pooler.dense", hidden, hidden)
    return weights


def _tokenizer(vocab: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=128)
    return tokenizer


def _json_files(
    config: Mapping[str, Any], prompts: Mapping[str, str] | None, max_seq_length: int
) -> dict[str, Any]:
    special = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("unk", "sep", "pad", "cls", "mask")}
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    return {
        "config.json": config,
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": config["hidden_size"],
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "__version__": {"sentence_transformers": "3.0.0", "transformers": "4.41.0", "pytorch": "2.3.0"},
            "prompts": dict(prompts or {}),
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "tokenizer_config.json": {
            "do_lower_case": True,
            "model_max_length": 512,
            "tokenize_chinese_chars": True,
            "strip_accents": None,
            "tokenizer_class": "BertTokenizer",
            **special,
        },
        "special_tokens_map.json": special,
    }


class Reference:
    """BERT with mean pooling (arXiv:1810.04805, arXiv:1908.10084) in float64, one text at a time."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's configuration, weights and tokenizer."""
        self.config = json.loads((folder / "config.json").read_text())
        self.max_seq_length = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        data = (folder / "model.safetensors").read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        self._weights = {}
        for name, entry in header.items():
            if entry["dtype"] == "F32":
                start, stop = (8 + size + offset for offset in entry["data_offsets"])
                values = np.frombuffer(data[start:stop], "<f4").reshape(entry["shape"])
                self._weights[name] = values.astype(np.float64)

    def ids(self, text: str, prompt: str = "") -> list[int]:
        """Return the token ids, special tokens included, cut at the end to the model's length."""
        cls, *content, sep = self.all_ids(text, prompt)
        return [cls, *content[: self.max_seq_length - 2], sep]

    def all_ids(self, text: str, prompt: str = "") -> list[int]:
        """Return the token ids of the whole text, special tokens included."""
        return list(self._tokenizer.encode((prompt + text).strip()).ids)

    def embed(self, text: str, prompt: str = "", dimensions: int | None = None) -> NDArray[np.float64]:
        """Return the vector of length 1: pooled, cut to `dimensions`, normalised."""
        vector = self.pooled(self.ids(text, prompt))[:dimensions]
        return vector / np.linalg.norm(vector)

    def pooled(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """Return the mean of the last hidden states, [D]."""
        w = self._weights
        x = w["embeddings.word_embeddings.weight"][list(ids)]
        x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._layer_norm("embeddings.LayerNorm", x + w["embeddings.token_type_embeddings.weight"][0])
        for layer in range(self.config["num_hidden_layers"]):
            x = self._layer(f"encoder.layer.{layer}", x)
        return x.mean(axis=0)

    def _layer(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        n, width = x.shape
        heads = self.config["num_attention_heads"]
        q, k, v = (
            self._linear(f"{name}.attention.self.{part}", x).reshape(n, heads, -1).swapaxes(0, 1)  # [h, n, d]
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / math.sqrt(width // heads)  # [h, n, n]
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        context = (scores / scores.sum(axis=2, keepdims=True)) @ v  # [h, n, d]
        context = context.swapaxes(0, 1).reshape(n, width)
        attended = self._linear(f"{name}.attention.output.dense", context)
        x = self._layer_norm(f"{name}.attention.output.LayerNorm", attended + x)
        inner = self._linear(f"{name}.intermediate.dense", x)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        return self._layer_norm(f"{name}.output.LayerNorm", self._linear(f"{name}.output.dense", inner) + x)

    def _linear(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _layer_norm(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
