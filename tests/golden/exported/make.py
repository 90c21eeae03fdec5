"""Export the tests' tiny BERT to ONNX the way the repositories' files were: PyTorch's exporter, opset 17.

Usage: python tests/golden/exported/make.py OUTPUT.onnx, where torch 2, transformers 4.57 and onnx are installed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from transformers import BertModel

sys.path.insert(0, str(Path(__file__).parents[2]))
from tiny import make_model

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"


class Encoder(torch.nn.Module):
    """The encoder with its inputs in the order of INPUTS and one output."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Return the last hidden state."""
        return self.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        bert = BertModel.from_pretrained(make_model(Path(folder)), attn_implementation="eager").eval()
    ids = torch.ones(2, 8, dtype=torch.int64)
    torch.onnx.export(
        Encoder(bert),
        (ids, ids, ids * 0),
        sys.argv[1],
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*INPUTS, OUTPUT)},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
