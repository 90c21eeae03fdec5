"""BERT (Devlin et al., 2018, arXiv:1810.04805), as transformers' `BertModel` computes it without its pooler.

Knows BERT's equations and the names of its weights; nothing of batches, padding, devices or precision.
"""

from __future__ import annotations

from dataclasses import dataclass

from senryu.encoders.config import Config
from senryu.encoders.ops import Activation, Ops, T

PREFIXES = ("bert.",)
# In checkpoints, but not read: the heads, and a buffer that is 0, 1, 2, …
UNUSED = ("pooler.", "embeddings.position_ids", "cls.")


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The keys of config.json that decide the result."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: Activation
    layer_norm_eps: float


def parse(config: Config) -> BertConfig:
    """Read config.json. Raises ModelError for a variant of BERT that this file does not compute."""
    config.only("position_embedding_type", "absolute")
    config.only("is_decoder", False)
    hidden_size = config.integer("hidden_size")
    return BertConfig(
        hidden_size=hidden_size,
        num_hidden_layers=config.integer("num_hidden_layers"),
        num_attention_heads=config.heads_of(hidden_size, "num_attention_heads"),
        hidden_act=config.activation("hidden_act", default="gelu"),
        layer_norm_eps=config.number("layer_norm_eps", default=1e-12),
    )


def forward(ops: Ops[T], config: BertConfig) -> T:
    """Compute the last hidden state of every token."""
    return layers(ops, config, embeddings(ops, config, ops.position_ids()))


def embeddings(ops: Ops[T], config: BertConfig, position_ids: T) -> T:
    """Add up what stands for the word, the place and the first of two segments."""
    x = ops.gather("embeddings.word_embeddings", ops.input_ids())
    x = ops.add(x, ops.row("embeddings.token_type_embeddings", 0))
    x = ops.add(x, ops.gather("embeddings.position_embeddings", position_ids))
    return ops.layer_norm("embeddings.LayerNorm", x, config.layer_norm_eps)


def layers(ops: Ops[T], config: BertConfig, x: T) -> T:
    """Compute all layers, one on the other."""
    for index in range(config.num_hidden_layers):
        x = layer(ops, config, f"encoder.layer.{index}", x)
    return x


def layer(ops: Ops[T], config: BertConfig, name: str, x: T) -> T:
    """Compute one layer: attention, then feed-forward, each added to its input and normalised."""
    attended = ops.attention(
        query=ops.linear(f"{name}.attention.self.query", x),
        key=ops.linear(f"{name}.attention.self.key", x),
        value=ops.linear(f"{name}.attention.self.value", x),
        heads=config.num_attention_heads,
    )
    attended = ops.linear(f"{name}.attention.output.dense", attended)
    x = ops.layer_norm(f"{name}.attention.output.LayerNorm", ops.add(attended, x), config.layer_norm_eps)

    expanded = ops.activation(config.hidden_act, ops.linear(f"{name}.intermediate.dense", x))
    reduced = ops.linear(f"{name}.output.dense", expanded)
    return ops.layer_norm(f"{name}.output.LayerNorm", ops.add(reduced, x), config.layer_norm_eps)
