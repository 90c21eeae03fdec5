"""Gemma 3's text model attending in both directions: EmbeddingGemma (arXiv:2509.20354, arXiv:2503.19786).

As transformers' `Gemma3TextModel` computes it with `use_bidirectional_attention`. A norm before and behind each block,
each scaled by 1 + its weight; most layers attend to near tokens only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from senryu.encoders.config import Config
from senryu.encoders.ops import Activation, Ops, T
from senryu.encoders.rotary import frequencies

PREFIXES = ("model.",)
UNUSED = ("lm_head.",)


@dataclass(frozen=True, slots=True)
class Gemma3Config:
    """The keys of config.json that decide the result."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    hidden_activation: Activation
    rms_norm_eps: float
    attention_bias: bool
    query_pre_attn_scalar: float
    sliding_window: int
    local: tuple[bool, ...]  # for each layer
    local_frequencies: NDArray[np.float32]
    global_frequencies: NDArray[np.float32]


def parse(config: Config) -> Gemma3Config:
    """Read config.json. Raises ModelError for a variant of Gemma 3 that this file does not compute."""
    if not config.flag("use_bidirectional_attention"):
        raise config.error(
            "use_bidirectional_attention", "the Gemma 3 encoder attends in both directions only"
        )
    config.only("rope_scaling", None)
    config.only("attn_logit_softcapping", None)
    heads, size = config.integer("num_attention_heads"), config.integer("head_dim", default=256)
    pattern = config.integer("sliding_window_pattern", "_sliding_window_pattern", default=6)
    global_theta = config.rope_theta("rope_theta", default=1_000_000.0, layer_type="full_attention")
    local_theta = config.rope_theta("rope_local_base_freq", default=10_000.0, layer_type="sliding_attention")
    return Gemma3Config(
        hidden_size=config.integer("hidden_size"),
        num_attention_heads=heads,
        num_key_value_heads=config.key_heads_of(heads, "num_key_value_heads"),
        hidden_activation=config.activation("hidden_activation", default="gelu_pytorch_tanh"),
        rms_norm_eps=config.number("rms_norm_eps", default=1e-6),
        attention_bias=config.flag("attention_bias"),
        query_pre_attn_scalar=config.number("query_pre_attn_scalar", default=256.0),
        sliding_window=config.integer("sliding_window", default=4096),
        local=config.layer_types(pattern, full=pattern - 1),
        local_frequencies=frequencies(local_theta, size),
        global_frequencies=frequencies(global_theta, size),
    )


def forward(ops: Ops[T], config: Gemma3Config) -> T:
    """Compute the last hidden state of every token."""
    x = ops.scale(ops.gather("embed_tokens", ops.input_ids()), math.sqrt(config.hidden_size))
    for index in range(len(config.local)):
        name = f"layers.{index}"
        attended = attention(ops, config, index, norm(ops, config, f"{name}.input_layernorm", x))
        x = ops.add(x, norm(ops, config, f"{name}.post_attention_layernorm", attended))
        reduced = gated(ops, config, f"{name}.mlp", norm(ops, config, f"{name}.pre_feedforward_layernorm", x))
        x = ops.add(x, norm(ops, config, f"{name}.post_feedforward_layernorm", reduced))
    return norm(ops, config, "norm", x)


def norm(ops: Ops[T], config: Gemma3Config, name: str, x: T, heads: int = 1) -> T:
    """Normalise: weights are what the factor has over 1."""
    return ops.rms_norm(name, x, config.rms_norm_eps, heads=heads, offset=1.0)


def attention(ops: Ops[T], config: Gemma3Config, index: int, x: T) -> T:
    """Attend, in a local layer to half of `sliding_window` tokens on either side."""
    name, bias = f"layers.{index}.self_attn", config.attention_bias
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    turns = config.local_frequencies if config.local[index] else config.global_frequencies

    def turned(part: str, count: int) -> T:
        projected = ops.linear(f"{name}.{part}_proj", x, bias=bias)
        return ops.rotary(norm(ops, config, f"{name}.{part}_norm", projected, count), count, turns)

    attended = ops.attention(
        query=turned("q", heads),
        key=turned("k", key_heads),
        value=ops.linear(f"{name}.v_proj", x, bias=bias),
        heads=heads,
        key_heads=key_heads,
        scale=config.query_pre_attn_scalar**-0.5,
        window=config.sliding_window // 2 if config.local[index] else None,
    )
    return ops.linear(f"{name}.o_proj", attended, bias=bias)


def gated(ops: Ops[T], config: Gemma3Config, name: str, x: T) -> T:
    """Compute the feed-forward block."""
    gate = ops.activation(config.hidden_activation, ops.linear(f"{name}.gate_proj", x, bias=False))
    expanded = ops.multiply(gate, ops.linear(f"{name}.up_proj", x, bias=False))
    return ops.linear(f"{name}.down_proj", expanded, bias=False)
