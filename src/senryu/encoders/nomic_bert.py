"""NomicBERT (Nussbaum et al., 2024, arXiv:2402.01613): BERT's order with rotary positions and gated feed-forward.

Reads the keys of the authors' own configuration and those of transformers' `NomicBertConfig`; the weights have the
authors' names in both. The mixture of experts of nomic-embed-text-v2 is another model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from senryu.encoders.config import Config
from senryu.encoders.ops import Ops, T
from senryu.encoders.rotary import frequencies

PREFIXES = ("bert.", "nomic_bert.")
UNUSED = ("pooler.", "cls.", "classifier.")


@dataclass(frozen=True, slots=True)
class NomicBertConfig:
    """The keys of config.json that decide the result."""

    layers: int
    heads: int
    layer_norm_eps: float
    segments: bool
    qkv_bias: bool
    expand_bias: bool
    reduce_bias: bool
    frequencies: NDArray[np.float32]


def parse(config: Config) -> NomicBertConfig:
    """Read config.json. Raises ModelError for a variant of NomicBERT that this file does not compute."""
    for key in ("prenorm", "causal", "parallel_block", "use_rms_norm", "rotary_emb_interleaved"):
        config.only(key, False)
    for key in ("rotary_scaling_factor", "rotary_emb_scale_base", "num_experts", "rope_scaling"):
        config.only(key, None)
    config.only("rotary_emb_fraction", 1.0)
    config.only("activation_function", "swiglu")
    config.only("hidden_act", "silu")
    config.only("moe_every_n_layers", 0)
    hidden_size = config.integer("n_embd", "hidden_size")
    heads = config.heads_of(hidden_size, "n_head", "num_attention_heads")
    config.only("head_dim", hidden_size // heads)
    theta = config.rope_theta("rotary_emb_base", "rope_theta", default=1000.0)
    return NomicBertConfig(
        layers=config.integer("n_layer", "num_hidden_layers"),
        heads=heads,
        layer_norm_eps=config.number("layer_norm_epsilon", "layer_norm_eps", default=1e-12),
        segments=config.get("type_vocab_size", default=2) != 0,
        qkv_bias=config.flag("qkv_proj_bias"),
        expand_bias=config.flag("mlp_fc1_bias"),
        reduce_bias=config.flag("mlp_fc2_bias"),
        frequencies=frequencies(theta, hidden_size // heads),
    )


def forward(ops: Ops[T], config: NomicBertConfig) -> T:
    """Compute the last hidden state of every token."""
    x = ops.gather("embeddings.word_embeddings", ops.input_ids())
    x = ops.add(x, ops.row("embeddings.token_type_embeddings", 0)) if config.segments else x
    x = ops.layer_norm("emb_ln", x, config.layer_norm_eps)
    for index in range(config.layers):
        x = layer(ops, config, f"encoder.layers.{index}", x)
    return x


def layer(ops: Ops[T], config: NomicBertConfig, name: str, x: T) -> T:
    """Compute one layer: attention, then feed-forward, each added to its input and normalised."""
    query, key, value = (
        ops.linear(f"{name}.attn.Wqkv", x, bias=config.qkv_bias, part=(i, 3)) for i in range(3)
    )
    attended = ops.attention(
        query=ops.rotary(query, config.heads, config.frequencies),
        key=ops.rotary(key, config.heads, config.frequencies),
        value=value,
        heads=config.heads,
    )
    attended = ops.linear(f"{name}.attn.out_proj", attended, bias=config.qkv_bias)
    x = ops.layer_norm(f"{name}.norm1", ops.add(attended, x), config.layer_norm_eps)

    expanded = ops.linear(f"{name}.mlp.fc11", x, bias=config.expand_bias)
    gate = ops.activation("silu", ops.linear(f"{name}.mlp.fc12", x, bias=config.expand_bias))
    reduced = ops.linear(f"{name}.mlp.fc2", ops.multiply(expanded, gate), bias=config.reduce_bias)
    return ops.layer_norm(f"{name}.norm2", ops.add(reduced, x), config.layer_norm_eps)
