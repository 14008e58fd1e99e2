"""What can stand between a whole virtual unit and its platform: an HTTP path that is silent, slow, cut, or lies.

`HostileUplink` is a `MemoryUplink` whose answers pass a fault first. A fault gets the request, the platform's right response
and the number of requests of this kind so far; it gives back the steps of what the unit hears instead, or None for the right
response.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bmsota_sim.kernel import SECOND
from bmsota_sim.virtual import MemoryUplink

from bmsota.ota import HttpResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

__all__ = ["PASSING", "Body", "End", "Head", "HostileUplink", "Wait", "kind_of"]

KINDS = ("challenge", "session", "confirm", "manifests", "images", "order")
PORTAL = b"<html><body>Sign in to the hotel's network</body></html>"


@dataclass(frozen=True)
class Head:
    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Body:
    data: bytes


@dataclass(frozen=True)
class End:
    error: str | None = None


@dataclass(frozen=True)
class Wait:
    seconds: float


Step = Head | Body | End | Wait


def kind_of(path: str) -> str:
    """Which of the exchanges a request for *path* belongs to."""
    return next((kind for kind in KINDS if kind in path), path)


class HostileUplink(MemoryUplink):
    """A `MemoryUplink` with `fault` in the way of every response."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fault: Callable[[str, Any, HttpResponse, int], Sequence[Step] | None] | None = None
        self.counts: dict[str, int] = {}

    def _respond(self, exchange: int, request: Any, listener: Any) -> None:
        if exchange != self._exchange:
            return
        kind = kind_of(request.path)
        number = self.counts[kind] = self.counts.get(kind, 0) + 1
        try:
            response = self._platform.respond(request)
        except ValueError:
            # An address the platform does not know: a fault led the unit there.
            response = HttpResponse(404, {}, b"")
        steps = self.fault(kind, request, response, number) if self.fault else None
        if steps is None:
            steps = (Head(response.status, dict(response.headers)), Body(response.body), End())
        due_ns = self._delay_ns
        for step in steps:
            if isinstance(step, Wait):
                due_ns += round(step.seconds * SECOND)
            else:
                self._kernel.call_in(due_ns, self._do, exchange, listener, step)

    def _do(self, exchange: int, listener: Any, step: Step) -> None:
        if exchange != self._exchange:
            return
        if isinstance(step, Head):
            listener.http_head(step.status, dict(step.headers))
        elif isinstance(step, Body):
            if step.data:
                listener.http_body(step.data)
        else:
            listener.http_ended(step.error)


# -- faults that pass: each is what one response became, drawn where there is something to draw -------------------------------


def _just(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Callable[..., Sequence[Step]]:
    return lambda _request, _response, _draw: (Head(status, headers or {}), Body(body), End())


def _silent(_request: Any, _response: HttpResponse, _draw: Random) -> Sequence[Step]:
    return ()


def _silent_in_body(_request: Any, response: HttpResponse, draw: Random) -> Sequence[Step]:
    return (Head(response.status, response.headers), Body(response.body[: draw.randrange(len(response.body) + 1)]))


def _cut(_request: Any, response: HttpResponse, draw: Random) -> Sequence[Step]:
    part = response.body[: draw.randrange(len(response.body) + 1)]
    return (Head(response.status, response.headers), Body(part), End("connection reset"))


def _no_answer(_request: Any, _response: HttpResponse, _draw: Random) -> Sequence[Step]:
    return (End("connection refused"),)


def _flipped(_request: Any, response: HttpResponse, draw: Random) -> Sequence[Step]:
    body = bytearray(response.body)
    if body:
        body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
    return (Head(response.status, response.headers), Body(bytes(body)), End())


def _short(_request: Any, response: HttpResponse, draw: Random) -> Sequence[Step]:
    body = response.body[: max(0, len(response.body) - draw.randrange(1, 20))]
    headers = {name: value for name, value in response.headers.items() if name.lower() != "content-length"}
    return (Head(response.status, headers | {"Content-Length": str(len(body))}), Body(body), End())


def _long(_request: Any, response: HttpResponse, draw: Random) -> Sequence[Step]:
    return (
        Head(response.status, response.headers),
        Body(response.body + draw.randbytes(draw.randrange(1, 900))),
        End(),
    )


def _endless(_request: Any, response: HttpResponse, draw: Random) -> Sequence[Step]:
    piece = Body(response.body or draw.randbytes(1000))
    return (Head(200, {"ETag": '"e"'}), *([piece] * 200), End())


def _gzipped(_request: Any, response: HttpResponse, _draw: Random) -> Sequence[Step]:
    headers = {**response.headers, "Content-Encoding": "gzip"}
    return (Head(response.status, headers), Body(gzip.compress(response.body, mtime=0)), End())


def _dripping(_request: Any, response: HttpResponse, draw: Random) -> Sequence[Step]:
    pause = Wait(draw.choice((1.0, 10.0)))
    steps: list[Step] = [Head(response.status, response.headers)]
    for at in range(min(len(response.body), 2000)):
        steps += (pause, Body(response.body[at : at + 1]))
    return (*steps, End())


def _late(_request: Any, response: HttpResponse, draw: Random) -> Sequence[Step]:
    return (Wait(draw.uniform(1, 90)), Head(response.status, response.headers), Body(response.body), End())


def _redirected(request: Any, response: HttpResponse, draw: Random) -> Sequence[Step]:
    target = draw.choice((request.path, "http://portal.example/login", "https://evil.example" + request.path))
    return (Head(draw.choice((301, 302, 307, 308)), {"Location": target}), Body(b""), End())


def _busy(_request: Any, _response: HttpResponse, draw: Random) -> Sequence[Step]:
    headers = {"Retry-After": str(draw.choice((1, 5, 120, 900)))} if draw.random() < 0.7 else {}
    return (Head(draw.choice((429, 503)), headers), Body(b""), End())


PASSING: Mapping[str, Callable[[Any, HttpResponse, Random], Sequence[Step]]] = {
    "silent": _silent,
    "silent in the body": _silent_in_body,
    "cut": _cut,
    "no answer": _no_answer,
    "bit flipped": _flipped,
    "too short": _short,
    "too long": _long,
    "endless": _endless,
    "gzip": _gzipped,
    "dripping": _dripping,
    "late": _late,
    "redirected": _redirected,
    "busy": _busy,
    "500": _just(500),
    "502": _just(502, body=PORTAL),
    "520": _just(520),
    "404": _just(404),
    "401": _just(401),
    "403": _just(403),
    "204": _just(204),
    "304": _just(304),
    "416": _just(416),
    "portal": _just(200, {"Content-Type": "text/html"}, PORTAL),
    "portal without a type": _just(200, {}, PORTAL),
    "empty": _just(200),
}
"""What may befall any response and pass. 409 is not here: it is the platform's own word that an order is cancelled."""
