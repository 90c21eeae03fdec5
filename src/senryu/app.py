"""HTTP: endpoints and headers. Everything that it answers, errors too, is JSON or a page.

Settles every ticket, when the answer is out. routes.py knows paths, faults.py what an exception becomes, the dialects
know bodies, and the pipeline does the work.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from senryu import __version__, errors, metrics, openapi, pages
from senryu.admission import Outcome
from senryu.body import Room
from senryu.config import Settings
from senryu.dialects import Call, Dialect, listings, ratelimit
from senryu.exchange import Exchange, Receive, Reply, Scope, Send
from senryu.faults import outcome_of, reply_to
from senryu.patience import Patience
from senryu.pipeline import INLINE_VECTORS, Pipeline
from senryu.routes import EMBEDDING_PATHS, Router, Routes
from senryu.shelf import Model
from senryu.types import EmbedResult, Key

logger = logging.getLogger("senryu.request")

INLINE_BYTES = 32 * 1024  # bodies up to this length are parsed on the event loop

T = TypeVar("T")


class App:
    """The ASGI application."""

    def __init__(self, pipeline: Pipeline, settings: Settings, *, origin: str, command: str) -> None:
        """`origin` is where clients reach the server, `command` the path of the command that prints keys."""
        self.pipeline = pipeline
        self.draining = False
        self._settings = settings
        self._origin = origin
        self._command = command
        self._room = Room()
        self._watcher: asyncio.Task[None] | None = None
        routes: Routes = {
            **{path: {"POST": self.embed} for path in EMBEDDING_PATHS},
            "/v1/models": {"GET": self.openai_models},
            "/v1/models/": {"GET": self.openai_model},
            "/openai/v1/models": {"GET": self.openai_models},
            "/openai/v1/models/": {"GET": self.openai_model},
            "/available-models": {"GET": self.available_models},
            "/models/": {"GET": self.resource},
            "/livez": {"GET": self.livez},
            "/readyz": {"GET": self.readyz},
            "/metrics": {"GET": self.metrics},
            "/openapi.json": {"GET": self.openapi},
            "/docs": {"GET": self.docs},
            "/": {"GET": self.home},
        }
        self.router = Router(routes, origin)

    # ---- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the engines' queue and prove that each answers. Raises NotReady if one does not."""
        await self.pipeline.shelf.start()
        self._watcher = asyncio.create_task(self.pipeline.admission.watch())

    async def stop(self) -> None:
        """Stop what `start` started."""
        if self._watcher is not None:
            self._watcher.cancel()
        await self.pipeline.admission.close()
        await asyncio.to_thread(self.pipeline.shelf.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's start and stop."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            exchange = Exchange(scope, receive)
            try:
                await self._exchange(exchange, send)
            finally:
                exchange.body.release()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    # ---- every request ---------------------------------------------------------------------------------------

    async def _exchange(self, exchange: Exchange, send: Send) -> None:
        started = time.perf_counter()
        status = 499
        try:
            reply = await self._reply(exchange)
            if await exchange.answer(reply, send):
                status = reply.status
        except errors.ClientGone:
            pass
        finally:
            if exchange.ticket is not None:
                outcome = Outcome.ANSWERED if status == 200 else exchange.outcome
                self.pipeline.admission.settle(exchange.ticket, outcome)
            self._log(exchange, status, started)

    async def _reply(self, exchange: Exchange) -> Reply:
        """Return what answers a request, with the headers that all answers have. Raises ClientGone."""
        admission = self.pipeline.admission
        try:
            admission.refuse_key_in_url(exchange.path, exchange.query)
            reply = await self.router.find(exchange)(exchange)
        except errors.ClientGone:
            raise
        except asyncio.CancelledError:
            if not self.draining:
                raise
            late = "The server is shutting down and could not finish this request in time."
            reply = await self._failed(exchange, errors.NotReady(late, 1))
        except Exception as error:
            reply = await self._failed(exchange, error)
        reply.headers["x-request-id"] = exchange.id
        if self.draining or not exchange.body.ended:
            reply.headers["connection"] = "close"
        if stages := exchange.timings.stages:
            timing = ", ".join([f"{name};dur={seconds * 1000:.3f}" for name, seconds in stages.items()])
            reply.headers["server-timing"] = timing
        if exchange.key is not None:
            reply.headers |= ratelimit.headers(admission.standings(exchange.key))
        return reply

    async def _failed(self, exchange: Exchange, error: Exception) -> Reply:
        exchange.outcome = outcome_of(error)
        if exchange.ticket is not None:  # NOTE: before the headers tell what is left
            self.pipeline.admission.give_back(exchange.ticket, exchange.outcome)
        reply = reply_to(error, exchange)
        # NOTE: a client that is still sending would not hear the answer, so the rest of its body is taken in first.
        if not self.draining and not isinstance(error, errors.BodyTimeout):
            await exchange.body.discard()
        return reply

    def _log(self, exchange: Exchange, status: int, started: float) -> None:
        metrics.observe(exchange.route, status, exchange.timings.stages)
        level = logging.DEBUG if exchange.note is None and status < 400 else logging.INFO
        if logger.isEnabledFor(level):
            fields = exchange.fields(status, time.perf_counter() - started)
            logger.log(level, "request", extra={"fields": fields})

    # ---- the API ---------------------------------------------------------------------------------------------

    async def embed(self, exchange: Exchange) -> Reply:
        """POST /v1/embeddings, and where else texts become vectors."""
        dialect = EMBEDDING_PATHS[exchange.route]
        timings = exchange.timings
        started = time.perf_counter()
        admission = self.pipeline.admission
        key = await self._key(exchange)
        ticket = exchange.ticket = admission.open(key)
        admission.charge_request(ticket)
        timings.stages["auth"] = time.perf_counter() - started
        body = await exchange.body.read(
            self._max_body_bytes(dialect), self._settings.body_seconds, self._room
        )
        body_bytes = len(body)
        # NOTE: a body of megabytes can be made to parse for half a second, and the loop has others to serve.
        call = (
            dialect.parse(body)
            if body_bytes <= INLINE_BYTES
            else await asyncio.to_thread(dialect.parse, body)
        )
        exchange.call = call
        del body  # its texts are in `call`; they may wait for long
        result = await self._in_time(exchange, self.pipeline.embed(ticket, call.request, timings))
        started = time.perf_counter()
        content = await _render(dialect, call, result, exchange, body_bytes)
        timings.stages["encode"] += time.perf_counter() - started
        exchange.note = {
            "key": key.id,
            "model": result.model,
            "texts": len(call.request.inputs),
            "tokens": result.prompt_tokens,
            "truncated": result.truncated,
            "unknown_tokens": result.unknown_tokens,
        }
        reply = Reply(content)
        reply.headers["x-senryu-truncated"] = str(result.truncated)
        reply.headers["x-senryu-unknown-tokens"] = str(result.unknown_tokens)
        reply.headers["x-senryu-fingerprint"] = result.fingerprint
        return reply

    async def _key(self, exchange: Exchange) -> Key:
        """Return the key of a request. Raises AuthenticationError, NotReady."""
        admission, authorization = self.pipeline.admission, exchange.header("authorization")
        try:
            exchange.key = admission.authenticate(authorization)
        except errors.UnknownKey:
            await admission.look_again()
            exchange.key = admission.authenticate(authorization)
        return exchange.key

    async def _in_time(self, exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
        """Await the work while its client is there and its time lasts; else cancel it, which frees its texts.

        Raises ClientGone, DeadlineExceeded.
        """
        try:
            seconds = self._seconds(exchange)
        except errors.InvalidRequest:
            work.close()
            raise
        try:
            with Patience(seconds) as patience:
                exchange.when_gone(patience.hang_up)
                return await work
        except TimeoutError:
            raise errors.DeadlineExceeded(f"The texts were not computed within {seconds:g} s.", 1) from None
        finally:
            exchange.when_gone(None)

    def _seconds(self, exchange: Exchange) -> float:
        """Return the time that a request is given: what it asks for, up to the server's maximum."""
        most = self._settings.request_seconds
        asked = exchange.header("x-request-timeout")
        if asked is None:
            return most
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", asked) or float(asked) <= 0:
            raise errors.InvalidRequest(
                f"The header 'x-request-timeout' is {asked[:50]!a}; it must be a number of seconds above 0."
            )
        return min(float(asked), most)

    def _max_body_bytes(self, dialect: Dialect) -> int:
        by_dialect = max(self.pipeline.admission.max_body_bytes(), dialect.body_bytes)
        return self._settings.max_body_bytes or by_dialect

    async def available_models(self, exchange: Exchange) -> Reply:
        """GET /available-models: what can be provisioned, for anybody."""
        return Reply(listings.available(self.pipeline.shelf.specs))

    async def resource(self, exchange: Exchange) -> Reply:
        """GET /models/{id}: a resource's state, by resource id or name."""
        wanted = exchange.wanted
        for resource in self.pipeline.admission.resources(await self._key(exchange)):
            if wanted in (resource.id, resource.name):
                return Reply(listings.resource(resource, self.pipeline.shelf, self.pipeline.performance))
        raise errors.NotFound(f"This key has no model resource {wanted[:100]!a}.")

    async def openai_models(self, exchange: Exchange) -> Reply:
        """GET /v1/models, /openai/v1/models: the models that the key may use."""
        return Reply(listings.openai_list(self.pipeline.admission.resources(await self._key(exchange))))

    async def openai_model(self, exchange: Exchange) -> Reply:
        """GET /v1/models/{id}, /openai/v1/models/{id}: one of them."""
        wanted = exchange.wanted
        resource = self.pipeline.admission.resource_for(await self._key(exchange), wanted)
        return Reply(listings.openai_model(wanted, resource))

    # ---- for operators and people ----------------------------------------------------------------------------

    async def livez(self, exchange: Exchange) -> Reply:
        """GET /livez: the process answers."""
        return Reply(b'{"status":"ok"}')

    async def readyz(self, exchange: Exchange) -> Reply:
        """GET /readyz: the engines answer, and rightly."""
        if self.draining:
            raise errors.NotReady("The server is shutting down.", retry_after=1)
        self.pipeline.admission.check()
        await self.pipeline.shelf.check()
        return Reply(b'{"status":"ok"}')

    async def metrics(self, exchange: Exchange) -> Reply:
        """GET /metrics, in Prometheus' text format."""
        return Reply(metrics.exposition(), media_type=metrics.CONTENT_TYPE)

    async def openapi(self, exchange: Exchange) -> Reply:
        """GET /openapi.json."""
        return Reply(listings.dumps(self._document()))

    async def docs(self, exchange: Exchange) -> Reply:
        """GET /docs: the same, for people."""
        return _page(pages.docs(self._document()))

    async def home(self, exchange: Exchange) -> Reply:
        """GET /: what runs, with a curl to paste."""
        model = self.pipeline.shelf.first
        # NOTE: where the command lies on this machine is nobody else's business.
        command = self._command if _is_local(exchange) else "senryu"
        return _page(pages.home(home_context(model, self._origin, command)))

    def _document(self) -> dict[str, Any]:
        shelf = self.pipeline.shelf
        specs = shelf.specs.values()
        return openapi.document(
            server_url=self._origin,
            models=tuple(shelf.specs),
            dimensions=tuple(
                sorted({size for spec in specs for size in (spec.dimensions, *spec.matryoshka)})
            ),
            token_ids=min(model.tokenizer.ids for model in shelf.loaded.values()),
        )


async def _render(
    dialect: Dialect, call: Call, result: EmbedResult, exchange: Exchange, body_bytes: int
) -> bytes:
    """Write an answer, one of many vectors or to a long body on a thread; the loop has others to serve."""
    agent = exchange.header("user-agent") or ""
    vectors = len(call.request.inputs) * len(call.request.output_types)
    if vectors <= INLINE_VECTORS and body_bytes <= INLINE_BYTES:
        return dialect.render(call, result, user_agent=agent, request_id=exchange.id)
    return await asyncio.to_thread(dialect.render, call, result, user_agent=agent, request_id=exchange.id)


def home_context(model: Model, origin: str, command: str) -> pages.Home:
    """Gather what the home page and the banner say."""
    return pages.Home(
        version=__version__,
        url=origin,
        model_id=model.spec.id,
        model_description=model.spec.description,
        dimensions=model.spec.dimensions,
        max_tokens=model.spec.max_seq_length,
        languages=model.spec.languages,
        precision=model.engine.precision.value,
        engine=model.engine.name,
        fingerprint=model.fingerprint,
        curl=curl(origin, model.spec.id, command),
    )


def curl(origin: str, model: str, command: str) -> str:
    """Return a curl that works when pasted; it asks the command for the key, so that no key is shown."""
    return (
        f"curl {origin}/v1/embeddings \\\n"
        f'  -H "Authorization: Bearer $({command} config EMBEDDING_KEY)" \\\n'
        f'  -d \'{{"model": "{model}", "input": "hello world"}}\''
    )


def _is_local(exchange: Exchange) -> bool:
    """Tell whether a person on this machine asks, and no proxy for somebody else."""
    proxied = any(exchange.header(name) for name in ("forwarded", "x-forwarded-for", "via"))
    return not proxied and exchange.client in ("127.0.0.1", "::1")


def _page(html: str) -> Reply:
    headers = {"content-security-policy": pages.CSP, "x-content-type-options": "nosniff"}
    return Reply(html.encode(), media_type="text/html; charset=utf-8", headers=headers)
