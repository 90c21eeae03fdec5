"""The least server around a library: POST /v1/embeddings, one worker, first come first served.

    python -m baselines.serve --backend torch --precision f32 --model FOLDER --port 9000     (from bench/)

Requests that wait are put together, in the order in which they came, up to a batch of 32 texts; a larger one runs
alone. Floats only, no keys, no checks: it costs less than any real server, so it flatters the library.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baselines.backends import BACKENDS, MAX_BATCH, Encode, Vectors


@dataclass(frozen=True, slots=True)
class Job:
    """The texts of one request, and where their vectors go."""

    texts: list[str]
    answer: asyncio.Future[Vectors]
    loop: asyncio.AbstractEventLoop

    def resolve(self, rows: Vectors | Exception) -> None:
        """Hand over the vectors, or what went wrong, from the worker's thread."""
        self.loop.call_soon_threadsafe(self._set, rows)

    def _set(self, rows: Vectors | Exception) -> None:
        if self.answer.done():
            return
        if isinstance(rows, Exception):
            self.answer.set_exception(rows)
        else:
            self.answer.set_result(rows)


class Line:
    """Requests in the order in which they came, and the one thread that computes them."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._waiting: SimpleQueue[Job] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    async def embed(self, texts: list[str]) -> Vectors:
        """Wait for the vectors of these texts."""
        loop = asyncio.get_running_loop()
        job = Job(texts, loop.create_future(), loop)
        self._waiting.put(job)
        return await job.answer

    def _work(self) -> None:
        held: Job | None = None
        while True:
            jobs = [held or self._waiting.get()]
            held = self._fill(jobs)
            self._run(jobs)

    def _fill(self, jobs: list[Job]) -> Job | None:
        """Add who waits while the batch has room; return the first that did not fit."""
        size = len(jobs[0].texts)
        while size < MAX_BATCH:
            try:
                job = self._waiting.get_nowait()
            except Empty:
                return None
            size += len(job.texts)
            if size > MAX_BATCH:
                return job
            jobs.append(job)
        return None

    def _run(self, jobs: Sequence[Job]) -> None:
        try:
            rows = self._encode([text for job in jobs for text in job.texts])
        except Exception as error:
            for job in jobs:
                job.resolve(error)
            return
        start = 0
        for job in jobs:
            job.resolve(rows[start : start + len(job.texts)])
            start += len(job.texts)


def application(line: Line) -> Starlette:
    """Make the application: one route."""

    async def embeddings(request: Request) -> Response:
        given = orjson.loads(await request.body())["input"]
        rows = await line.embed([given] if isinstance(given, str) else given)
        data = [
            {"object": "embedding", "index": index, "embedding": row}
            for index, row in enumerate(np.ascontiguousarray(rows))
        ]
        body = orjson.dumps({"object": "list", "data": data}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route("/v1/embeddings", embeddings, methods=["POST"])])


def main() -> None:
    """Load a backend and serve it."""
    parser = argparse.ArgumentParser(
        description="Serve a library's vectors with as little around it as can be."
    )
    parser.add_argument("--backend", choices=list(BACKENDS), required=True)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument(
        "--model", type=Path, required=True, help="the model's folder, with the exported files"
    )
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    line = Line(BACKENDS[args.backend](args.model, args.precision))
    uvicorn.run(application(line), port=args.port, loop="uvloop", http="httptools", access_log=False)


if __name__ == "__main__":
    main()
