"""Record the golden vectors that the package carries for a model, made by its own float64 reference engine.

Usage: python tests/golden/record.py MODEL > src/senryu/models/golden/MODEL.json
Then hold them against the reference library:
       python tests/golden/record.py --check MODEL_FOLDER GOLDEN.json     (needs sentence-transformers)
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

import numpy as np

# Points of MTEB's results repository, and of table 1 of arXiv:2210.07316.
SCORES = {"all-minilm-l6-v2": {"STSBenchmark": 82.03, "STS17 en-en": 87.59}}


def record(name: str) -> None:
    """Print the golden file."""
    from senryu import engine, models, verify
    from senryu.config import Paths
    from senryu.tokenizer import Tokenizer
    from senryu.types import Precision

    spec = models.resolve(name, Paths.from_environ(os.environ).models)
    texts = verify.tokenize(Tokenizer(spec), verify.TEXTS)
    reference = engine.load(spec, precision=Precision.F32, threads=1, engine="reference")
    items = [
        {
            "text": text,
            "input_type": task,
            "tokens": len(tokens.ids),
            "vector": base64.b64encode(vector.astype("<f4").tobytes()).decode(),
        }
        for (text, task), tokens, vector in zip(
            verify.TEXTS, texts, verify.embed(reference, texts), strict=True
        )
    ]
    facts = {"weights": spec.weights, "made_by": "Senryu's reference engine, NumPy float64"}
    content = facts | {"scores": SCORES.get(spec.id, {}), "texts": items}
    print(json.dumps(content, indent=1, ensure_ascii=False))


def check(folder: str, golden: Path) -> None:
    """Print how far the reference library's vectors are from the recorded ones."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    items = json.loads(golden.read_text("utf-8"))["texts"]
    expected = np.stack([np.frombuffer(base64.b64decode(item["vector"]), "<f4") for item in items])
    given = model.encode([item["text"] for item in items], batch_size=1, normalize_embeddings=True)
    print(f"{len(items)} texts, largest difference {np.abs(given - expected).max():.1e}")
    print(f"least cosine {(given.astype(np.float64) * expected).sum(axis=1).min():.9f}")


if __name__ == "__main__":
    check(sys.argv[2], Path(sys.argv[3])) if sys.argv[1] == "--check" else record(sys.argv[1])
