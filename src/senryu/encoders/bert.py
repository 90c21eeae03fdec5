"""BERT (Devlin et al., 2018, arXiv:1810.04805), as transformers' `BertModel` computes it without its pooler.

Knows BERT's equations and the names of its weights; nothing of batches, padding, devices or precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from senryu.encoders.ops import Ops, T
from senryu.errors import ModelError

# In checkpoints, but not read: the pooler head, and a buffer that is 0, 1, 2, …
UNUSED = ("pooler.", "embeddings.position_ids", "cls.")


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The keys of config.json that decide the result."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> BertConfig:
        """Read config.json. Raises ModelError for a variant of BERT that this file does not compute."""
        for key, computed in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if (given := config.get(key, computed)) != computed:
                raise ModelError(
                    f"config.json: {key} is {given!r}; the BERT encoder computes {computed!r} only."
                )
        if config.get("is_decoder"):
            raise ModelError(
                "config.json: is_decoder is set; the BERT encoder attends in both directions only."
            )
        try:
            parsed = cls(
                hidden_size=int(config["hidden_size"]),
                num_hidden_layers=int(config["num_hidden_layers"]),
                num_attention_heads=int(config["num_attention_heads"]),
                layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"config.json: {error} is missing or not a number.") from None
        if parsed.num_attention_heads < 1 or parsed.hidden_size % parsed.num_attention_heads:
            raise ModelError("config.json: hidden_size is not a multiple of num_attention_heads.")
        return parsed


def forward(ops: Ops[T], config: BertConfig) -> T:
    """Compute the last hidden state of every token."""
    x = ops.gather("embeddings.word_embeddings", ops.input_ids())
    x = ops.add(x, ops.row("embeddings.token_type_embeddings", 0))
    x = ops.add(x, ops.gather("embeddings.position_embeddings", ops.position_ids()))
    x = ops.layer_norm("embeddings.LayerNorm", x, config.layer_norm_eps)
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

    expanded = ops.gelu(ops.linear(f"{name}.intermediate.dense", x))
    reduced = ops.linear(f"{name}.output.dense", expanded)
    return ops.layer_norm(f"{name}.output.LayerNorm", ops.add(reduced, x), config.layer_norm_eps)
