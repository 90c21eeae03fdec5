"""JinaBERT (Günther et al., 2023, arXiv:2310.19923): BERT with ALiBi in place of positions, and gated feed-forward.

As `JinaBertModel` of jina-bert-implementation computes it (jina-embeddings-v2-small-en, -base-en). The German, Spanish,
Chinese and code models are of another implementation, which normalises queries and keys, and are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from senryu.encoders.config import Config
from senryu.encoders.ops import Activation, Ops, T

PREFIXES = ("bert.",)
UNUSED = ("pooler.", "cls.", "embeddings.position_ids")

GATES: dict[str, Activation] = {"geglu": "gelu", "reglu": "relu"}


@dataclass(frozen=True, slots=True)
class JinaBertConfig:
    """The keys of config.json that decide the result."""

    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float
    gate: Activation


def parse(config: Config) -> JinaBertConfig:
    """Read config.json. Raises ModelError for a variant of JinaBERT that this file does not compute."""
    if "qk-post-norm" in str(config.get("auto_map", default="")):
        raise config.error("auto_map", "the JinaBERT encoder computes jina-bert-implementation only")
    config.only("position_embedding_type", "alibi")
    config.only("feed_forward_type", *GATES)
    config.only("is_decoder", False)
    return JinaBertConfig(
        num_hidden_layers=config.integer("num_hidden_layers"),
        num_attention_heads=config.heads_of(config.integer("hidden_size"), "num_attention_heads"),
        layer_norm_eps=config.number("layer_norm_eps", default=1e-12),
        gate=GATES[config.get("feed_forward_type", default="geglu")],
    )


def slopes(heads: int) -> list[float]:
    """Return ALiBi's slope of each head.

    A geometric series for a power of two; else that of the next lower one, filled up from the next higher one.
    Source: the paper's own code (github.com/ofirpress/attention_with_linear_biases, get_slopes).
    """
    lower = 2 ** math.floor(math.log2(heads))
    series = [2.0 ** (-8.0 * (i + 1) / lower) for i in range(lower)]
    between = [2.0 ** (-4.0 * (i + 1) / lower) for i in range(0, 2 * lower, 2)]
    return series + between[: heads - lower]


def forward(ops: Ops[T], config: JinaBertConfig) -> T:
    """Compute the last hidden state of every token."""
    x = ops.gather("embeddings.word_embeddings", ops.input_ids())
    x = ops.add(x, ops.row("embeddings.token_type_embeddings", 0))
    x = ops.layer_norm("embeddings.LayerNorm", x, config.layer_norm_eps)
    bias = ops.alibi(slopes(config.num_attention_heads))
    for index in range(config.num_hidden_layers):
        x = layer(ops, config, f"encoder.layer.{index}", x, bias)
    return x


def layer(ops: Ops[T], config: JinaBertConfig, name: str, x: T, bias: T) -> T:
    """Compute one layer: attention, then feed-forward, each added to its input and normalised."""
    query, key, value = (ops.linear(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
    attended = ops.attention(query, key, value, config.num_attention_heads, bias=bias)
    attended = ops.linear(f"{name}.attention.output.dense", attended)
    x = ops.layer_norm(f"{name}.attention.output.LayerNorm", ops.add(attended, x), config.layer_norm_eps)

    gate, expanded = (ops.linear(f"{name}.mlp.gated_layers", x, bias=False, part=(i, 2)) for i in range(2))
    reduced = ops.linear(f"{name}.mlp.wo", ops.multiply(ops.activation(config.gate, gate), expanded))
    return ops.layer_norm(f"{name}.mlp.layernorm", ops.add(reduced, x), config.layer_norm_eps)
