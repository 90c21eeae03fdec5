"""How good a running server's vectors are: STSBenchmark, STS17 and SciFact for every embedding type.

Talks HTTP alone and computes every score itself, so that nothing of the server's code vouches for the server.
Metrics as MTEB defines them (arXiv:2210.07316): Spearman over a whole file, nDCG@10 with exact search.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import math
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float64]  # [B, D]

DTYPES = {"float": "<f4", "int8": "i1", "uint8": "u1", "binary": "i1", "ubinary": "u1"}
BATCH = 96
MAX_CHARS = 2048

# Points of all-MiniLM-L6-v2. Source: the MTEB results repository, and table 1 of arXiv:2210.07316.
PUBLISHED = {"STSBenchmark": 82.03, "STS17 en-en": 87.59, "SciFact": 64.51}
# What an fp32 pipeline of the reference library reached with each type, and how far off --check allows.
REACHED = {("STSBenchmark", "float"): 82.03, ("SciFact", "float"): 64.51}
BANDS = {("STSBenchmark", "float"): 0.05, ("SciFact", "float"): 0.3}
FLOAT_QUERIES = "binary documents, float queries"


@dataclass(slots=True)
class Client:
    """A server and how to ask it, over a few connections of its own."""

    url: str
    key: str
    model: str
    connections: int
    answered: int = 0
    fingerprint: str = ""
    _local: threading.local = field(default_factory=threading.local)

    def embed(self, texts: Sequence[str], kind: str, task: str) -> Matrix:
        """Return one row a text, [len(texts), D]: the codes as numbers that cosines can be taken of."""
        unique = list(dict.fromkeys(text[:MAX_CHARS] for text in texts))
        batches = [unique[i : i + BATCH] for i in range(0, len(unique), BATCH)]
        with ThreadPoolExecutor(self.connections) as pool:
            rows = [
                row for part in pool.map(lambda batch: self._ask(batch, kind, task), batches) for row in part
            ]
        place = {text: index for index, text in enumerate(unique)}
        codes = np.stack([np.frombuffer(base64.b64decode(row), DTYPES[kind]) for row in rows])
        return centred(codes, kind)[[place[text[:MAX_CHARS]] for text in texts]]

    def _ask(self, batch: Sequence[str], kind: str, task: str) -> list[str]:
        body = {
            "model": self.model,
            "input": batch,
            "input_type": task,
            "encoding_format": "base64",
            "embedding_type": kind,
        }
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection = self._connection()
        connection.request("POST", "/v1/embeddings", json.dumps(body), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise SystemExit(f"{self.url}: {response.status}: {answer['error']['message']}")
        self.fingerprint = response.headers.get("x-senryu-fingerprint", "")
        self.answered += len(batch)
        progress(f"{kind}: {self.answered} texts")
        return [item["embedding"] for item in answer["data"]]

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._local, "connection"):
            place = urlsplit(self.url)
            kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
            self._local.connection = kind(place.netloc, timeout=300)
        connection: http.client.HTTPConnection = self._local.connection
        return connection


def centred(codes: NDArray[Any], kind: str) -> Matrix:
    """Turn codes into zero-centred numbers: uint8 minus 128, a bit of the binary types into -1 or 1."""
    if kind in ("binary", "ubinary"):
        packed = (codes.astype(np.int16) + (128 if kind == "binary" else 0)).astype(np.uint8)
        return np.unpackbits(packed, axis=1).astype(np.float64) * 2 - 1
    return codes.astype(np.float64) - (128 if kind == "uint8" else 0)


def unit(rows: Matrix) -> Matrix:
    """Scale each row to length 1."""
    scaled: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


# ---- metrics -----------------------------------------------------------------------------------------------


def average_ranks(values: Matrix) -> Matrix:
    """Rank from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Matrix = (last - (counts - 1) / 2)[inverse]
    return ranks


def spearman(a: Matrix, b: Matrix) -> float:
    """Return Spearman's rank correlation, in points."""
    return 100 * float(np.corrcoef(average_ranks(a), average_ranks(b))[0, 1])


def ndcg_at_10(scores: Matrix, document_ids: Sequence[str], relevant: Mapping[str, int]) -> float:
    """Return nDCG@10 of one query's scores, [documents]; of equal scores the earlier document ranks first.

    Source: trec_eval's ndcg_cut.
    """
    ranking = [document_ids[i] for i in np.argsort(-scores, kind="stable")[:10]]
    gain = sum(relevant.get(document, 0) / math.log2(rank + 2) for rank, document in enumerate(ranking))
    ideal = sorted(relevant.values(), reverse=True)[:10]
    return gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(ideal))


# ---- tasks -------------------------------------------------------------------------------------------------


def sts(client: Client, path: Path, kind: str) -> float:
    """Return Spearman of the cosines against the scores of a file of pairs."""
    lines = [line.split("\t") for line in path.read_text("utf-8").splitlines()[1:]]
    gold = np.array([float(line[0]) for line in lines])
    first, second = (
        unit(client.embed([line[side] for line in lines], kind, "search_document")) for side in (1, 2)
    )
    return spearman((first * second).sum(axis=1), gold)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A retrieval set in BEIR's form, documents by id, descending: trec_eval's order of equal scores."""

    document_ids: list[str]
    documents: list[str]
    queries: dict[str, str]
    relevant: dict[str, dict[str, int]]

    @classmethod
    def read(cls, folder: Path) -> Retrieval:
        """Read corpus, queries and judgements; keeps the queries that have a judgement."""
        corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
        corpus.sort(key=lambda document: str(document["_id"]), reverse=True)
        asked = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
        relevant: dict[str, dict[str, int]] = {}
        for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
            query, document, grade = line.split("\t")
            relevant.setdefault(query, {})[document] = int(grade)
        return cls(
            [document["_id"] for document in corpus],
            [(document["title"] + " " + document["text"]).strip() for document in corpus],
            {query["_id"]: query["text"] for query in asked if query["_id"] in relevant},
            relevant,
        )

    def score(self, queries: Matrix, documents: Matrix) -> float:
        """Return the mean nDCG@10 over the queries, in points."""
        scores = unit(queries) @ unit(documents).T  # [queries, documents]
        found = [
            ndcg_at_10(row, self.document_ids, self.relevant[query])
            for query, row in zip(self.queries, scores, strict=True)
        ]
        return 100 * sum(found) / len(found)


def scifact(client: Client, data: Retrieval, kind: str) -> dict[str, float]:
    """Return nDCG@10 by variant: the type itself, and for binary also with float queries."""
    documents = client.embed(data.documents, kind, "search_document")
    asked = list(data.queries.values())
    found = {kind: data.score(client.embed(asked, kind, "search_query"), documents)}
    if kind == "binary":
        found[FLOAT_QUERIES] = data.score(client.embed(asked, "float", "search_query"), documents)
    return found


def measure(client: Client, data: Path, kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return points by task and embedding type."""
    retrieval = Retrieval.read(data / "SciFact")
    points: dict[str, dict[str, float]] = {task: {} for task in PUBLISHED}
    for kind in kinds:
        client.answered = 0
        points["STSBenchmark"][kind] = sts(client, data / "sts" / "STSBenchmark.tsv", kind)
        points["STS17 en-en"][kind] = sts(client, data / "sts" / "sts_STS17_en-en.tsv", kind)
        points["SciFact"] |= scifact(client, retrieval, kind)
    return points


# ---- command -----------------------------------------------------------------------------------------------


def table(points: Mapping[str, Mapping[str, float]]) -> str:
    """Write the points as a Markdown table beside the published ones."""
    columns = list(dict.fromkeys(kind for row in points.values() for kind in row))
    lines = ["| task | published | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for task, row in points.items():
        cells = [f"{row[kind]:.2f}" if kind in row else "–" for kind in columns]
        lines.append(f"| {task} | {PUBLISHED[task]:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def outside(points: Mapping[str, Mapping[str, float]]) -> list[str]:
    """List what lies outside its band; what was not measured is not judged."""
    return [
        f"{task} {kind}: {points[task][kind]:.2f} is not within {REACHED[task, kind]} ± {band}"
        for (task, kind), band in BANDS.items()
        if kind in points[task] and abs(points[task][kind] - REACHED[task, kind]) > band
    ]


def progress(line: str) -> None:
    """Show a line that the next one replaces, for people."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def config_vars() -> dict[str, str]:
    """Return the config vars: the environment's, else what `senryu config` says."""
    if "EMBEDDING_URL" in os.environ:
        return dict(os.environ)
    command = [sys.executable, "-m", "senryu", "config", "--shell"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(pair.split("=", 1) for line in lines for pair in shlex.split(line))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Score a running server's vectors for every embedding type.")
    parser.add_argument("--data", type=Path, required=True, help="folder with sts/ and SciFact/")
    parser.add_argument(
        "--url", help="origin of the server; default EMBEDDING_URL, or what senryu config says"
    )
    parser.add_argument("--key", help="default EMBEDDING_KEY, or what senryu config says")
    parser.add_argument("--model", help="default EMBEDDING_MODEL_ID, or what senryu config says")
    parser.add_argument("--types", nargs="+", choices=DTYPES, default=list(DTYPES), metavar="TYPE")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--check", action="store_true", help="end with 1 if a score is outside its band")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, and with --check judge it."""
    given = arguments()
    known = {} if given.url and given.key and given.model else config_vars()
    client = Client(
        url=given.url or known["EMBEDDING_URL"],
        key=given.key or known["EMBEDDING_KEY"],
        model=given.model or known["EMBEDDING_MODEL_ID"],
        connections=given.connections,
    )
    started = time.perf_counter()
    points = measure(client, given.data, given.types)
    progress("")
    seconds = time.perf_counter() - started
    print(f"{client.model}, fingerprint {client.fingerprint}, {seconds:.0f} s\n\n{table(points)}")
    if given.check and (failures := outside(points)):
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
