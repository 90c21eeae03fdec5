"""Paths: what is there, with which methods, and which dialect speaks on it. Knows no field, and does no work.

A route is a path; one that ends in a slash, but for the root, takes whatever follows it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TypeAlias

from senryu.dialects import Dialect, cohere, heroku, openai
from senryu.errors import MethodNotAllowed, NotFound
from senryu.exchange import Exchange, Reply

Endpoint: TypeAlias = Callable[[Exchange], Awaitable[Reply]]
Routes: TypeAlias = MutableMapping[str, dict[str, Endpoint]]  # by path and method

# Where texts become vectors. `/embeddings` is for OpenAI's clients that were given the bare origin.
EMBEDDING_PATHS: dict[str, Dialect] = {
    "/v1/embeddings": heroku.DIALECT,
    "/embeddings": heroku.DIALECT,
    "/v1/embed": cohere.V1,
    "/v2/embed": cohere.V2,
    "/openai/v1/embeddings": openai.DIALECT,
}
# Below these, whatever the path, errors are in the dialect's shape; everywhere else in Heroku's.
DIALECT_ROOTS: dict[str, Dialect] = {"/v2": cohere.V2, "/openai": openai.DIALECT}


def dialect_of(path: str) -> Dialect:
    """Return the dialect that answers on a path, if only with an error."""
    for root, dialect in DIALECT_ROOTS.items():
        if path == root or path.startswith(root + "/"):
            return dialect
    return EMBEDDING_PATHS.get(path, heroku.DIALECT)


class Router:
    """Finds the endpoint of a request."""

    def __init__(self, routes: Routes, origin: str) -> None:
        self.routes = routes
        self._origin = origin
        self._open = sorted((route for route in routes if route.endswith("/") and route != "/"), reverse=True)

    def find(self, exchange: Exchange) -> Endpoint:
        """Find the route, and note it. Raises NotFound or MethodNotAllowed."""
        route = exchange.path
        if route not in self.routes or (route.endswith("/") and route != "/"):
            route, exchange.wanted = self._open_route(exchange.path)
        methods = self.routes.get(route, {})
        method = "GET" if exchange.method == "HEAD" else exchange.method
        path = ascii(exchange.path[:200])
        if not methods:
            raise NotFound(f"There is nothing at {path}. The paths are listed at {self._origin}/docs.")
        if method not in methods:
            allowed = ("GET", "HEAD") if "GET" in methods else tuple(methods)
            listed = ", ".join(allowed)
            raise MethodNotAllowed(f"{path} does not take {exchange.method}; it takes {listed}.", allowed)
        exchange.route = route + ("{id}" if exchange.wanted else "")
        return methods[method]

    def _open_route(self, path: str) -> tuple[str, str]:
        """Split a path into a route that ends in a slash and what follows; an empty route where there is none."""
        for route in self._open:
            if path.startswith(route) and len(path) > len(route):
                return route, path[len(route) :]
        return "", ""
