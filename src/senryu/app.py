"""HTTP: endpoints, headers, and exception → status, in one place. Everything it answers, errors too, is JSON or a page.

Knows statuses and headers; routes.py knows paths, the dialects know bodies, and the pipeline does the work.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from senryu import __version__, errors, metrics, openapi, pages
from senryu.body import Room
from senryu.config import Settings
from senryu.dialects import Call, Dialect, Fault, listings
from senryu.exchange import Exchange, Receive, Reply, Scope, Send
from senryu.pipeline import INLINE_VECTORS, Canary, Model, Pipeline
from senryu.routes import EMBEDDING_PATHS, Router, Routes, dialect_of
from senryu.types import EmbedResult

logger = logging.getLogger("senryu.request")

STATUS: Mapping[type[Exception], int] = {
    errors.InvalidRequest: 400,
    errors.AuthenticationError: 401,
    errors.AuthorizationError: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.BodyTimeout: 408,
    errors.BodyTooLarge: 413,
    errors.QueueFull: 429,
    errors.NotReady: 503,
    errors.DeadlineExceeded: 503,
    errors.EngineError: 500,
}

INLINE_BYTES = 32 * 1024  # bodies up to this length are parsed on the event loop

T = TypeVar("T")


def status_of(error: Exception) -> int:
    """Return the status of an error: that of the nearest class above it that has one, else 500."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


class App:
    """The ASGI application."""

    def __init__(self, pipeline: Pipeline, settings: Settings, *, origin: str, command: str) -> None:
        """`origin` is where clients reach the server, `command` the path of the command that prints keys."""
        self.pipeline = pipeline
        self.draining = False
        self._settings = settings
        self._origin = origin
        self._command = command
        self._canaries = [Canary(model) for model in pipeline.models.values()]
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
        """Start the engines' queues and prove that each answers. Raises NotReady if one does not."""
        for model in self.pipeline.models.values():
            model.batcher.start()
        for canary in self._canaries:
            await canary.check()
        self._watcher = asyncio.create_task(self.pipeline.admission.watch())

    async def stop(self) -> None:
        """Stop what `start` started."""
        if self._watcher is not None:
            self._watcher.cancel()
        for model in self.pipeline.models.values():
            await asyncio.to_thread(model.batcher.close)
            model.tokenizer.close()

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
        try:
            reply = await self.router.find(exchange)(exchange)
        except errors.ClientGone:
            self._log(exchange, 499, started)
            return
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
        await reply.send(send)
        self._log(exchange, reply.status, started)

    async def _failed(self, exchange: Exchange, error: Exception) -> Reply:
        """Turn an exception into an answer; a fault of ours says nothing of its insides to the caller."""
        status = status_of(error)
        dialect = dialect_of(exchange.path)
        message = dialect.message(error)
        if status == 500:
            logger.error("request %s failed", exchange.id, exc_info=error)
            message = f"An internal error. The log says more under the request id {exchange.id}."
        reply = Reply(dialect.render_error(Fault(status, message, error, exchange.id)), status)
        match error:
            case errors.BusyError():
                reply.headers["retry-after"] = str(error.retry_after)
            case errors.MethodNotAllowed():
                reply.headers["allow"] = ", ".join(error.allowed)
            case errors.AuthenticationError():
                reply.headers["www-authenticate"] = "Bearer"
        # NOTE: a client that is still sending would not hear the answer, so the rest of its body is taken in first.
        if not self.draining and not isinstance(error, errors.BodyTimeout):
            await exchange.body.discard()
        return reply

    def _log(self, exchange: Exchange, status: int, started: float) -> None:
        metrics.observe(exchange.route, status, exchange.timings.stages)
        level = logging.DEBUG if exchange.note is None and status < 400 else logging.INFO
        if logger.isEnabledFor(level):
            fields = {
                "id": exchange.id,
                "method": exchange.method,
                "route": exchange.route,
                "status": status,
                "ms": round((time.perf_counter() - started) * 1000, 3),
                **(exchange.note or {}),
                **{f"{name}_ms": round(s * 1000, 3) for name, s in exchange.timings.stages.items()},
            }
            logger.log(level, "request", extra={"fields": fields})

    # ---- the API ---------------------------------------------------------------------------------------------

    async def embed(self, exchange: Exchange) -> Reply:
        """POST /v1/embeddings, and where else texts become vectors."""
        dialect = EMBEDDING_PATHS[exchange.route]
        timings = exchange.timings
        started = time.perf_counter()
        key = self.pipeline.admission.authenticate(exchange.header("authorization"))
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
        del body  # its texts are in `call`; they may wait for long
        result = await self._in_time(exchange, self.pipeline.embed(key, call.request, timings))
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

    async def _in_time(self, exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
        """Await the work while its client is there and its time lasts; else cancel it, which frees its texts.

        Raises ClientGone, DeadlineExceeded.
        """
        try:
            seconds = self._seconds(exchange)
        except errors.InvalidRequest:
            work.close()
            raise
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(exchange.receive())  # the body has ended: only a disconnect can come
        gone.add_done_callback(lambda _: task.cancel())
        try:
            async with asyncio.timeout(seconds):
                return await task
        except TimeoutError:
            raise errors.DeadlineExceeded(f"The texts were not computed within {seconds:g} s.", 1) from None
        except asyncio.CancelledError:
            if gone.done() and not gone.cancelled():
                raise errors.ClientGone from None
            raise
        finally:
            gone.cancel()

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
        return Reply(listings.available(self.pipeline.models.values()))

    async def resource(self, exchange: Exchange) -> Reply:
        """GET /models/{id}: a resource's state, by resource id or name."""
        admission = self.pipeline.admission
        key = admission.authenticate(exchange.header("authorization"))
        wanted = exchange.wanted
        for resource in admission.resources(key):
            if wanted in (resource.id, resource.name):
                model = self.pipeline.models[resource.model_id]
                return Reply(listings.resource(resource, model, self.pipeline.performance))
        raise errors.NotFound(f"This key has no model resource {wanted[:100]!a}.")

    async def openai_models(self, exchange: Exchange) -> Reply:
        """GET /v1/models, /openai/v1/models: the models that the key may use."""
        key = self.pipeline.admission.authenticate(exchange.header("authorization"))
        return Reply(listings.openai_list(self.pipeline.admission.resources(key)))

    async def openai_model(self, exchange: Exchange) -> Reply:
        """GET /v1/models/{id}, /openai/v1/models/{id}: one of them."""
        key = self.pipeline.admission.authenticate(exchange.header("authorization"))
        wanted = exchange.wanted
        return Reply(listings.openai_model(wanted, self.pipeline.admission.resource_for(key, wanted)))

    # ---- for operators and people ----------------------------------------------------------------------------

    async def livez(self, exchange: Exchange) -> Reply:
        """GET /livez: the process answers."""
        return Reply(b'{"status":"ok"}')

    async def readyz(self, exchange: Exchange) -> Reply:
        """GET /readyz: the engines answer, and rightly."""
        if self.draining:
            raise errors.NotReady("The server is shutting down.", retry_after=1)
        for canary in self._canaries:
            await canary.check()
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
        model = next(iter(self.pipeline.models.values()))
        # NOTE: where the command lies on this machine is nobody else's business.
        command = self._command if _is_local(exchange) else "senryu"
        return _page(pages.home(home_context(model, self._origin, command)))

    def _document(self) -> dict[str, Any]:
        sizes = {
            size
            for model in self.pipeline.models.values()
            for size in (model.spec.dimensions, *model.spec.matryoshka)
        }
        return openapi.document(
            server_url=self._origin,
            models=tuple(self.pipeline.models),
            dimensions=tuple(sorted(sizes)),
            token_ids=min(model.tokenizer.ids for model in self.pipeline.models.values()),
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
