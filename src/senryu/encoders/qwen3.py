"""Qwen3 (arXiv:2505.09388) as an embedder (arXiv:2506.05176), as transformers' `Qwen3Model` computes it.

A decoder: no token looks ahead, so the last one stands for the text. Heads of key and value are shared; queries
and keys are normalised head by head before they are turned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from senryu.encoders.config import Config
from senryu.encoders.ops import Activation, Ops, T
from senryu.encoders.rotary import frequencies

PREFIXES = ("model.",)
UNUSED = ("lm_head.",)


@dataclass(frozen=True, slots=True)
class Qwen3Config:
    """The keys of config.json that decide the result."""

    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    hidden_act: Activation
    rms_norm_eps: float
    attention_bias: bool
    frequencies: NDArray[np.float32]


def parse(config: Config) -> Qwen3Config:
    """Read config.json. Raises ModelError for a variant of Qwen3 that this file does not compute."""
    config.only("use_sliding_window", False)
    config.only("rope_scaling", None)
    config.only("is_causal", True)
    config.only("use_bidirectional_attention", False)
    heads = config.integer("num_attention_heads")
    return Qwen3Config(
        num_hidden_layers=config.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=config.key_heads_of(heads, "num_key_value_heads"),
        hidden_act=config.activation("hidden_act", default="silu"),
        rms_norm_eps=config.number("rms_norm_eps", default=1e-6),
        attention_bias=config.flag("attention_bias"),
        frequencies=frequencies(
            config.rope_theta("rope_theta", default=10_000.0), config.integer("head_dim", default=128)
        ),
    )


def forward(ops: Ops[T], config: Qwen3Config) -> T:
    """Compute the last hidden state of every token."""
    x = ops.gather("embed_tokens", ops.input_ids())
    for index in range(config.num_hidden_layers):
        name = f"layers.{index}"
        normed = ops.rms_norm(f"{name}.input_layernorm", x, config.rms_norm_eps)
        x = ops.add(x, attention(ops, config, f"{name}.self_attn", normed))
        normed = ops.rms_norm(f"{name}.post_attention_layernorm", x, config.rms_norm_eps)
        x = ops.add(x, gated(ops, config, f"{name}.mlp", normed))
    return ops.rms_norm("norm", x, config.rms_norm_eps)


def attention(ops: Ops[T], config: Qwen3Config, name: str, x: T) -> T:
    """Attend to what came before."""
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads

    def turned(part: str, count: int) -> T:
        projected = ops.linear(f"{name}.{part}_proj", x, bias=config.attention_bias)
        normed = ops.rms_norm(f"{name}.{part}_norm", projected, config.rms_norm_eps, heads=count)
        return ops.rotary(normed, count, config.frequencies)

    attended = ops.attention(
        query=turned("q", heads),
        key=turned("k", key_heads),
        value=ops.linear(f"{name}.v_proj", x, bias=config.attention_bias),
        heads=heads,
        key_heads=key_heads,
        causal=True,
    )
    return ops.linear(f"{name}.o_proj", attended, bias=config.attention_bias)


def gated(ops: Ops[T], config: Qwen3Config, name: str, x: T) -> T:
    """Compute the feed-forward block."""
    gate = ops.activation(config.hidden_act, ops.linear(f"{name}.gate_proj", x, bias=False))
    expanded = ops.multiply(gate, ops.linear(f"{name}.up_proj", x, bias=False))
    return ops.linear(f"{name}.down_proj", expanded, bias=False)
