"""Models that people use, by the config.json of their repositories, with random weights; and token ids to run them on.

Speed depends on shapes, not on what weights say. Knows files and sizes; nothing of engines or of what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baselines import install
from baselines.install import OFFLINE
from senryu.models import Pooling
from senryu.types import Batch, Ids


@dataclass(frozen=True, slots=True)
class RandomModel:
    """One model: its name, the keys of its config.json that decide what is computed, and its pooling."""

    id: str
    config: Mapping[str, Any]
    pooling: Pooling


_BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
_MODERN_BERT = {
    "architectures": ["ModernBertModel"],
    "model_type": "modernbert",
    "attention_bias": False,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "hidden_activation": "gelu",
    "hidden_size": 768,
    "intermediate_size": 1152,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "norm_bias": False,
    "norm_eps": 1e-5,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "pad_token_id": 50283,
    "bos_token_id": 50281,
    "cls_token_id": 50281,
    "eos_token_id": 50282,
    "sep_token_id": 50282,
    "vocab_size": 50368,
}
_E5_LARGE = {
    **_BERT,
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 514,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "vocab_size": 250002,
}
# NOTE: the card says 12 layers, 384 dimensions, SiLU, a vocabulary of 180 thousand and 97 million weights. Heads and
# intermediate size are those of granite-embedding-small-english-r2, which give that number of weights.
_GRANITE = {
    **_MODERN_BERT,
    "hidden_activation": "silu",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "max_position_embeddings": 32768,
    "num_hidden_layers": 12,
    "vocab_size": 180000,
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 32768,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "vocab_size": 151669,
}

MODELS = (
    RandomModel("bge-small-en-v1.5", {**_BERT, "hidden_size": 384, "intermediate_size": 1536}, Pooling.CLS),
    RandomModel("bge-base-en-v1.5", _BERT, Pooling.CLS),
    RandomModel("multilingual-e5-large", _E5_LARGE, Pooling.MEAN),
    RandomModel("gte-modernbert-base", _MODERN_BERT, Pooling.CLS),
    RandomModel("granite-embedding-97m-multilingual-r2", _GRANITE, Pooling.CLS),
    RandomModel("qwen3-embedding-0.6b", _QWEN3, Pooling.LAST_TOKEN),
)


def write(model: RandomModel, parent: Path, python: Path) -> Path:
    """Write a model's folder with random weights, by the PyTorch of the baselines, and return it.

    NOTE: without a vocabulary: the engine reads token ids. In float32, whatever the published ones are in: mapped from
    one file, all precisions then fit into memory side by side.
    """
    folder = parent / model.id
    contents = {
        "config.json": model.config,
        "tokenizer.json": {},
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
        ],
        "1_Pooling/config.json": {
            "embedding_dimension": model.config["hidden_size"],
            "pooling_mode": model.pooling,
        },
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1), "utf-8")
    command = [str(python), "-m", "baselines.transformer", "make", str(folder)]
    subprocess.run(command, cwd=install.HERE.parent, env={**os.environ, **OFFLINE}, check=True)
    return folder


# ---- texts -------------------------------------------------------------------------------------------------

# The lengths of the texts of each batch, in tokens. NOTE: of one bucket of the engine, as the server puts texts
# together; so there is next to no padding for anyone.
PLANS: dict[str, list[list[int]]] = {
    "passages": [list(range(longest - 15, longest + 1, 3)) for longest in (256, 192, 128, 64)],
    "queries": [[*range(11, 17), *range(11, 17), 14, 15, 16, 16]] * 2,
    "one query": [[16]],
}
CALIBRATION = list(range(16, 144, 4))


def texts(model: RandomModel, lengths: Sequence[int]) -> list[Ids]:
    """Make texts of random tokens, none of them among the first and the last, where special ones lie."""
    rng = np.random.default_rng(sum(lengths))
    most = model.config["vocab_size"] - 1000
    return [array("i", rng.integers(1000, most, length, np.int32).tobytes()) for length in lengths]


def plan(model: RandomModel, name: str) -> list[list[Ids]]:
    """Return the batches of a plan."""
    return [texts(model, lengths) for lengths in PLANS[name]]


def as_batch(together: Sequence[Ids]) -> Batch:
    """Lay texts end to end."""
    return Batch(np.concatenate(together), np.array([len(ids) for ids in together], np.int32))
