"""GTE's own encoder (Zhang et al., 2024, arXiv:2407.19669), `NewModel` of its authors and transformers' `GteModel`.

BERT's order with rotary positions and gated feed-forward. Positions may be stretched beyond those of the training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from senryu.encoders.config import Config
from senryu.encoders.ops import Activation, Ops, T
from senryu.encoders.rotary import frequencies

PREFIXES = ("new.",)
UNUSED = ("pooler.", "lm_head.", "classifier.")


@dataclass(frozen=True, slots=True)
class GteConfig:
    """The keys of config.json that decide the result."""

    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: Activation
    layer_norm_eps: float
    segments: bool
    frequencies: NDArray[np.float32]


def parse(config: Config) -> GteConfig:
    """Read config.json. Raises ModelError for a variant of GTE that this file does not compute."""
    config.only("position_embedding_type", "rope")
    config.only("layer_norm_type", "layer_norm")
    config.only("pack_qkv", True)
    config.only("logn_attention_scale", False)
    hidden_size = config.integer("hidden_size")
    heads = config.heads_of(hidden_size, "num_attention_heads")
    return GteConfig(
        num_hidden_layers=config.integer("num_hidden_layers"),
        num_attention_heads=heads,
        hidden_act=config.activation("hidden_act", default="gelu"),
        layer_norm_eps=config.number("layer_norm_eps", default=1e-12),
        segments=config.get("type_vocab_size", default=1) != 0,
        frequencies=stretched(config, hidden_size // heads),
    )


def stretched(config: Config, size: int) -> NDArray[np.float32]:
    """Return the frequencies, for NTK-aware scaling with θ times the factor (kexue.fm/archives/9706).

    NOTE: the authors' code uses these for texts of any length, also where the unscaled ones would reach.
    """
    theta, scaling = config.rope_theta("rope_theta", default=10_000.0), config.get("rope_scaling")
    if scaling is None:
        return frequencies(theta, size)
    match scaling:
        case {"type": "ntk", "factor": int() | float() as factor} if (
            not scaling.get("mixed_b") and factor > 0
        ):
            return frequencies(theta * factor, size) / np.float32(factor ** (2 / size))
    raise config.error(
        "rope_scaling", "the GTE encoder computes type 'ntk' with a factor, without mixed_b, only"
    )


def forward(ops: Ops[T], config: GteConfig) -> T:
    """Compute the last hidden state of every token."""
    x = ops.gather("embeddings.word_embeddings", ops.input_ids())
    x = ops.add(x, ops.row("embeddings.token_type_embeddings", 0)) if config.segments else x
    x = ops.layer_norm("embeddings.LayerNorm", x, config.layer_norm_eps)
    for index in range(config.num_hidden_layers):
        x = layer(ops, config, f"encoder.layer.{index}", x)
    return x


def layer(ops: Ops[T], config: GteConfig, name: str, x: T) -> T:
    """Compute one layer: attention, then feed-forward, each added to its input and normalised."""
    query, key, value = (ops.linear(f"{name}.attention.qkv_proj", x, part=(i, 3)) for i in range(3))
    attended = ops.attention(
        query=ops.rotary(query, config.num_attention_heads, config.frequencies),
        key=ops.rotary(key, config.num_attention_heads, config.frequencies),
        value=value,
        heads=config.num_attention_heads,
    )
    attended = ops.linear(f"{name}.attention.o_proj", attended)
    x = ops.layer_norm(f"{name}.attn_ln", ops.add(attended, x), config.layer_norm_eps)

    expanded, gate = (ops.linear(f"{name}.mlp.up_gate_proj", x, bias=False, part=(i, 2)) for i in range(2))
    expanded = ops.multiply(ops.activation(config.hidden_act, gate), expanded)
    reduced = ops.linear(f"{name}.mlp.down_proj", expanded)
    return ops.layer_norm(f"{name}.mlp_ln", ops.add(reduced, x), config.layer_norm_eps)
