"""RoBERTa (Liu et al., 2019, arXiv:1907.11692), XLM-RoBERTa and CamemBERT: BERT's layers, other position ids.

Positions are counted from the padding's id on, and the padding itself stands at that id.
"""

from __future__ import annotations

from dataclasses import dataclass

from senryu.encoders import bert
from senryu.encoders.config import Config
from senryu.encoders.ops import Ops, T

PREFIXES = ("roberta.",)
UNUSED = (*bert.UNUSED, "lm_head.", "classifier.")


@dataclass(frozen=True, slots=True)
class RobertaConfig:
    """BERT's keys, and the padding's id."""

    bert: bert.BertConfig
    pad_token_id: int


def parse(config: Config) -> RobertaConfig:
    """Read config.json. Raises ModelError for a variant of RoBERTa that this file does not compute."""
    return RobertaConfig(bert.parse(config), config.integer("pad_token_id", default=1))


def forward(ops: Ops[T], config: RobertaConfig) -> T:
    """Compute the last hidden state of every token."""
    x = bert.embeddings(ops, config.bert, ops.position_ids(padding=config.pad_token_id))
    return bert.layers(ops, config.bert, x)
