"""What do keys, limits and the ledger cost a request? Processor time of each step, alone, on one thread.

    python bench/admission.py

Prints microseconds a call: the best of several rounds, because machines are noisy, for a key without limits and for
one with both. The sum is what a request pays beside its texts; requests are let in and answered, as nearly all are.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from senryu.admission import Admission, Outcome
from senryu.dialects import ratelimit
from senryu.ratelimit import Unit
from senryu.transport import WatchedTransport
from senryu.types import EmbedRequest, Key, Resource, Ticket, Usage
from senryu.usage import Ledger

KEYS = 1000
MODEL = "all-minilm-l6-v2"
NOW = datetime.now(UTC)
ROUNDS = 5


class Accounts:
    """A thousand keys, every other one with limits that are never reached."""

    def revision(self) -> int:
        """Count changes: none."""
        return 0

    def keys(self) -> Sequence[Key]:
        """Return the keys."""
        return [self.key(number) for number in range(KEYS)]

    def key(self, number: int) -> Key:
        """Return one key; the odd ones have limits."""
        limit = 10**12 if number % 2 else None
        return Key(
            str(number),
            hashlib.sha256(secret(number).encode()).digest(),
            ("id",),
            NOW,
            requests_per_minute=limit,
            tokens_per_minute=limit,
        )

    def resources(self) -> Sequence[Resource]:
        """Return the resource."""
        return [Resource("id", "embedding-tidy-04217", MODEL, 96, 2048, NOW)]


def secret(number: int) -> str:
    """Return a key as long as ours are."""
    return f"inf-{number:048x}"


def no_store(writer: str, batch: int, rows: Sequence[Usage]) -> None:
    """Take a batch of the ledger's."""


class Request:
    """The steps that a request of one key takes, each of which can be run again and again."""

    def __init__(self, number: int) -> None:
        self.admission = Admission(
            Accounts(), lambda model_id: (model_id,), ledger=Ledger(no_store), away_seconds=3600
        )
        self.header = f"Bearer {secret(number)}"
        self.key = self.admission.authenticate(self.header)
        self.request = EmbedRequest(MODEL, ("how do I reset my password",))
        self.ticket = self.admission.open(self.key)
        self.admission.admit(self.ticket, self.request)
        self.steps: dict[str, Callable[[], object]] = {
            "key in the URL?": lambda: self.admission.refuse_key_in_url("/v1/embeddings", b""),
            "authenticate": lambda: self.admission.authenticate(self.header),
            "open, charge a request": self.open,
            "admit": lambda: self.admission.admit(self.ticket, self.request),
            "charge tokens": lambda: self.admission.charge(self.ticket, 9),
            "headers": lambda: ratelimit.headers(self.admission.standings(self.key)),
            "settle, count": lambda: self.admission.settle(self.ticket, Outcome.ANSWERED),
        }

    def open(self) -> Ticket:
        """Begin a request."""
        ticket = self.admission.open(self.key)
        self.admission.charge_request(ticket)
        return ticket

    def whole(self) -> None:
        """Take all the steps, as app.py and pipeline.py do."""
        admission = self.admission
        admission.refuse_key_in_url("/v1/embeddings", b"")
        ticket = admission.open(admission.authenticate(self.header))
        admission.charge_request(ticket)
        admission.admit(ticket, self.request)
        admission.charge(ticket, 9)
        ratelimit.headers(admission.standings(ticket.key))
        admission.settle(ticket, Outcome.ANSWERED)
        assert ticket.key.requests_per_minute is None or ticket.charges.keys() == set(Unit)


def best(call: Callable[[], object], calls: int) -> float:
    """Return the processor time of a call in microseconds, in the best round."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(calls):
            call()
        seconds.append(time.thread_time() - began)
    return min(seconds) / calls * 1e6


def delivery(calls: int) -> float:
    """Return what it costs to ask whether a client has hung up, beyond sending at the end of the turn."""

    async def run() -> float:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        watched = WatchedTransport(transport)
        seconds = []
        for _ in range(ROUNDS):
            total = 0.0
            for _ in range(calls // 10):
                began = time.thread_time()
                if not watched.hung_up():
                    watched.write(b"x")
                await watched.delivered()
                asked = time.thread_time()
                transport.write(b"x")
                total += asked - began - (time.thread_time() - asked)
                theirs.recv(100)
            seconds.append(total)
        transport.close()
        theirs.close()
        return min(seconds) / (calls // 10) * 1e6

    return asyncio.run(run())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100_000, help="calls in a round")
    calls = parser.parse_args().calls
    free, limited = Request(0), Request(1)
    print(f"{'µs of processor time':<28}{'no limits':>12}{'both limits':>12}")
    for name, step in free.steps.items():
        print(f"{name:<28}{best(step, calls):>12.2f}{best(limited.steps[name], calls):>12.2f}")
    print(f"{'all of it':<28}{best(free.whole, calls):>12.2f}{best(limited.whole, calls):>12.2f}")
    asking = delivery(calls)
    print(f"{'was the answer taken?':<28}{asking:>12.2f}{asking:>12.2f}")


if __name__ == "__main__":
    main()
