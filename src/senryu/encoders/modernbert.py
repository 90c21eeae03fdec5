"""ModernBERT (Warner et al., 2024, arXiv:2412.13663), as transformers' `ModernBertModel` computes it.

Normalises before each block; gated feed-forward; rotary positions; most layers attend to near tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from senryu.encoders.config import Config
from senryu.encoders.ops import Activation, Ops, T
from senryu.encoders.rotary import frequencies

PREFIXES = ("model.",)
UNUSED = ("head.", "decoder.", "classifier.")


@dataclass(frozen=True, slots=True)
class ModernBertConfig:
    """The keys of config.json that decide the result."""

    num_attention_heads: int
    hidden_activation: Activation
    norm_eps: float
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    local_attention: int
    local: tuple[bool, ...]  # for each layer
    local_frequencies: NDArray[np.float32]
    global_frequencies: NDArray[np.float32]


def parse(config: Config) -> ModernBertConfig:
    """Read config.json. Raises ModelError for a variant of ModernBERT that this file does not compute."""
    config.only("rope_scaling", None)
    hidden_size = config.integer("hidden_size")
    heads = config.heads_of(hidden_size, "num_attention_heads")
    global_theta = config.rope_theta("global_rope_theta", default=160_000.0, layer_type="full_attention")
    local_theta = config.rope_theta("local_rope_theta", default=10_000.0, layer_type="sliding_attention")
    return ModernBertConfig(
        num_attention_heads=heads,
        hidden_activation=config.activation("hidden_activation", default="gelu"),
        norm_eps=config.number("norm_eps", default=1e-5),
        norm_bias=config.flag("norm_bias"),
        attention_bias=config.flag("attention_bias"),
        mlp_bias=config.flag("mlp_bias"),
        local_attention=config.integer("local_attention", default=128),
        local=config.layer_types(config.integer("global_attn_every_n_layers", default=3), full=0),
        local_frequencies=frequencies(local_theta, hidden_size // heads),
        global_frequencies=frequencies(global_theta, hidden_size // heads),
    )


def forward(ops: Ops[T], config: ModernBertConfig) -> T:
    """Compute the last hidden state of every token."""
    x = ops.gather("embeddings.tok_embeddings", ops.input_ids())
    x = norm(ops, config, "embeddings.norm", x)
    for index in range(len(config.local)):
        # NOTE: the embeddings are normalised already; the first layer does not do it again.
        normed = norm(ops, config, f"layers.{index}.attn_norm", x) if index else x
        x = ops.add(x, attention(ops, config, index, normed))
        x = ops.add(
            x, gated(ops, config, f"layers.{index}.mlp", norm(ops, config, f"layers.{index}.mlp_norm", x))
        )
    return norm(ops, config, "final_norm", x)


def norm(ops: Ops[T], config: ModernBertConfig, name: str, x: T) -> T:
    """Normalise."""
    return ops.layer_norm(name, x, config.norm_eps, bias=config.norm_bias)


def attention(ops: Ops[T], config: ModernBertConfig, index: int, x: T) -> T:
    """Attend, in a local layer to half of `local_attention` tokens on either side."""
    heads, name, bias = config.num_attention_heads, f"layers.{index}.attn", config.attention_bias
    turns = config.local_frequencies if config.local[index] else config.global_frequencies
    query, key, value = (ops.linear(f"{name}.Wqkv", x, bias=bias, part=(i, 3)) for i in range(3))
    attended = ops.attention(
        query=ops.rotary(query, heads, turns),
        key=ops.rotary(key, heads, turns),
        value=value,
        heads=heads,
        window=config.local_attention // 2 if config.local[index] else None,
    )
    return ops.linear(f"{name}.Wo", attended, bias=bias)


def gated(ops: Ops[T], config: ModernBertConfig, name: str, x: T) -> T:
    """Compute the feed-forward block: one half of the expansion gates the other."""
    expanded, gate = (ops.linear(f"{name}.Wi", x, bias=config.mlp_bias, part=(i, 2)) for i in range(2))
    expanded = ops.activation(config.hidden_activation, expanded)
    return ops.linear(f"{name}.Wo", ops.multiply(expanded, gate), bias=config.mlp_bias)
