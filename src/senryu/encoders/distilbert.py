"""DistilBERT (Sanh et al., 2019, arXiv:1910.01108), as transformers' `DistilBertModel` computes it.

BERT's layers under other names, without segments.
"""

from __future__ import annotations

from dataclasses import dataclass

from senryu.encoders.config import Config
from senryu.encoders.ops import Activation, Ops, T

PREFIXES = ("distilbert.",)
UNUSED = ("embeddings.position_ids", "vocab_", "pre_classifier.", "classifier.", "qa_outputs.")

EPS = 1e-12  # of every layer normalisation; no key sets it


@dataclass(frozen=True, slots=True)
class DistilBertConfig:
    """The keys of config.json that decide the result."""

    n_layers: int
    n_heads: int
    activation: Activation


def parse(config: Config) -> DistilBertConfig:
    """Read config.json. Raises ModelError for a variant of DistilBERT that this file does not compute."""
    return DistilBertConfig(
        n_layers=config.integer("n_layers"),
        n_heads=config.heads_of(config.integer("dim"), "n_heads"),
        activation=config.activation("activation", default="gelu"),
    )


def forward(ops: Ops[T], config: DistilBertConfig) -> T:
    """Compute the last hidden state of every token."""
    x = ops.gather("embeddings.word_embeddings", ops.input_ids())
    x = ops.add(x, ops.gather("embeddings.position_embeddings", ops.position_ids()))
    x = ops.layer_norm("embeddings.LayerNorm", x, EPS)
    for index in range(config.n_layers):
        x = layer(ops, config, f"transformer.layer.{index}", x)
    return x


def layer(ops: Ops[T], config: DistilBertConfig, name: str, x: T) -> T:
    """Compute one layer: attention, then feed-forward, each added to its input and normalised."""
    query, key, value = (ops.linear(f"{name}.attention.{part}_lin", x) for part in "qkv")
    attended = ops.attention(query, key, value, config.n_heads)
    attended = ops.linear(f"{name}.attention.out_lin", attended)
    x = ops.layer_norm(f"{name}.sa_layer_norm", ops.add(attended, x), EPS)

    expanded = ops.activation(config.activation, ops.linear(f"{name}.ffn.lin1", x))
    return ops.layer_norm(
        f"{name}.output_layer_norm", ops.add(ops.linear(f"{name}.ffn.lin2", expanded), x), EPS
    )
