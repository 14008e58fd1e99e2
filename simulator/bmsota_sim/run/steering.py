"""Steering a run that goes on: from a second terminal, over a Unix domain socket; and again, from what an earlier run was steered by.

A request is a line of JSON, and so is its answer: `{"do": "status"}`, `{"do": "stop"}`, or an entry of a timeline without `at`. The
socket is looked at between two slices of the run's time, so nothing happens in the middle of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter, ValidationError

from bmsota.errors import ConfigurationError
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.consistency import problems
from bmsota_sim.run.places import did_you_mean, dotted, shown
from bmsota_sim.run.scenario import entry_problem
from bmsota_sim.run.verbs import VERBS, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.verbs import Verb

__all__ = ["SOCKET_NAME", "Steerable", "SteeringSocket", "ask_run", "entry_of", "load_steered", "steer_again"]

SOCKET_NAME = "control.sock"
"""In the folder of the report."""
# Longer than any entry; a client that sends more is none of ours.
REQUEST_SIZE_BYTES_MAX = 65_536
CLIENTS_MAX = 8
ANSWER_TIMEOUT_S = 60.0
# Times are whole milliseconds less one nanosecond: nothing else of a run is due then, so it is replayed in the same order.
STEP_NS = 1_000_000

_ENTRY: TypeAdapter[Verb] = TypeAdapter(Entry)


class Steerable(Protocol):
    """A run that can be told to do more than its timeline says."""

    @property
    def scenario(self) -> FleetScenario: ...

    @property
    def steered(self) -> Sequence[Verb]:
        """What it was told already."""

    @property
    def steered_from_ns(self) -> int:
        """The first moment, from its start, that it can still be told of.

        Raises:
            ConfigurationError: it cannot be steered.
        """

    def steer(self, entry: Verb) -> int:
        """Plan it; the number of events.

        Raises:
            ConfigurationError: its share draws no unit.
        """


# -- entries -------------------------------------------------------------------------------------------------------------


def entry_of(run: Steerable, values: dict[str, Any]) -> Verb:
    """An entry of the timeline from its keys, checked as one of a scenario file.

    Raises:
        ConfigurationError: it is none, or contradicts what is planned.
    """
    do = values.get("do")
    if do not in VERBS:
        raise ConfigurationError(f"no verb {shown(do)}{did_you_mean(do if isinstance(do, str) else '', VERBS)}")
    try:
        entry = _ENTRY.validate_python(values)
    except ValidationError as error:
        raise ConfigurationError(
            "; ".join(f"{do}: {entry_problem(VERBS[do], _within(item))}" for item in error.errors())
        ) from error
    scenario = run.scenario
    timeline = (*scenario.timeline, *run.steered, entry)
    place = len(timeline) - 1
    for path, text in problems(scenario.model_copy(update={"timeline": timeline})):
        if path[:2] == ("timeline", place):
            raise ConfigurationError(f"{do}: {dotted(path[2:])}: {text}" if path[2:] else f"{do}: {text}")
    return entry


def _within(item: ErrorDetails) -> ErrorDetails:
    """Without what pydantic puts before the path of a union's member."""
    return {**item, "loc": item["loc"][1:]}


def load_steered(path: Path) -> list[dict[str, Any]]:
    """By what the run of a `run.json` was steered.

    Raises:
        ConfigurationError: it cannot be read, or is none.
    """
    try:
        steered = json.loads(path.read_bytes())["given"].get("steered", [])
        if isinstance(steered, list) and all(isinstance(values, dict) for values in steered):
            return steered
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ConfigurationError(f"{path}: expected the run.json of a run")


def steer_again(run: Steerable, steered: Sequence[dict[str, Any]]) -> None:
    """Plan what an earlier run was steered by. Before the start.

    Raises:
        ConfigurationError: an entry does not go with this scenario.
    """
    for values in steered:
        run.steer(entry_of(run, values))


# -- the socket of a run ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Client:
    connection: socket.socket
    data: bytearray = field(default_factory=bytearray)


class SteeringSocket:
    """Where a run is spoken to. Looked at by `poll`; never waits."""

    def __init__(self, path: Path) -> None:
        """Listen at *path*, for this user alone. A socket that an earlier run has left is replaced.

        Raises:
            ConfigurationError: a run listens there, something else is there, or the system refuses.
        """
        self.path = path
        self.is_stopped = False
        """Somebody has asked the run to end."""
        self.steered: list[dict[str, Any]] = []
        """What was asked for, as entries of a timeline."""
        self._clients: list[_Client] = []
        self._remove_stale()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._socket.bind(str(path))
            self._socket.listen(CLIENTS_MAX)
        except OSError as error:
            self._socket.close()
            # The system's word for a path of more than some 100 bytes has no number.
            raise ConfigurationError(f"cannot listen at {path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        self._socket.setblocking(False)

    def _remove_stale(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except OSError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigurationError(f"cannot listen at {self.path}: a file is there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.path))
            raise ConfigurationError(f"cannot listen at {self.path}: another run listens there")
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Listen no more, and remove the socket."""
        for client in self._clients:
            client.connection.close()
        self._clients.clear()
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def poll(self, run: Steerable, status: Callable[[], str]) -> None:
        """Do what was asked for since the last time."""
        with contextlib.suppress(OSError):  # Nobody waits, or has gone again.
            while len(self._clients) < CLIENTS_MAX:
                connection, _ = self._socket.accept()
                connection.setblocking(False)
                self._clients.append(_Client(connection))
        for client in list(self._clients):
            if not self._serve(client, run, status):
                client.connection.close()
                self._clients.remove(client)

    def _serve(self, client: _Client, run: Steerable, status: Callable[[], str]) -> bool:
        """Whether more of this client may come."""
        try:
            data = client.connection.recv(REQUEST_SIZE_BYTES_MAX)
        except BlockingIOError:
            return True
        except OSError:
            return False
        client.data += data
        line, newline, _ = bytes(client.data).partition(b"\n")
        if not newline:
            return bool(data) and len(client.data) < REQUEST_SIZE_BYTES_MAX
        try:
            answer = {"ok": True, "text": self._answer(line, run, status)}
        except ConfigurationError as error:
            answer = {"ok": False, "text": str(error)}
        with contextlib.suppress(OSError):
            client.connection.sendall(json.dumps(answer).encode() + b"\n")
        return False

    def _answer(self, line: bytes, run: Steerable, status: Callable[[], str]) -> str:
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ConfigurationError(f"expected a line of JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigurationError(f"expected an object, got {shown(values)}")
        match values.get("do"):
            case "status":
                return status()
            case "stop":
                self.is_stopped = True
                return "the run ends"
            case _:
                return self._steer(run, values)

    def _steer(self, run: Steerable, values: dict[str, Any]) -> str:
        at_ns = (run.steered_from_ns // STEP_NS + 1) * STEP_NS - 1
        if "who" not in values and values.get("do") == "storm":
            values = {**values, "who": "all"}
        values = {**values, "at": at_ns / NS_PER_S}
        entry = entry_of(run, values)
        count = run.steer(entry)
        self.steered.append(values)
        who = "the platform" if entry.do == "platform_outage" else f"{count:,} units"
        return f"{entry.do} of {who} at {at_ns / NS_PER_S:.3f} s"


# -- the other end -------------------------------------------------------------------------------------------------------


def ask_run(path: Path, values: dict[str, Any]) -> str:
    """Ask the run that listens at *path*; what it says.

    Raises:
        ConfigurationError: no run listens there, or it refuses.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except FileNotFoundError as error:
            raise ConfigurationError(f"no run listens at {path}: there is no socket") from error
        except ConnectionRefusedError as error:
            raise ConfigurationError(f"no run listens at {path}: the run that made this socket has ended") from error
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror or error}") from error
        try:
            connection.sendall(json.dumps(values).encode() + b"\n")
            answer = json.loads(b"".join(_received(connection)))
        except TimeoutError as error:
            raise ConfigurationError(f"{path}: the run gave no answer within {ANSWER_TIMEOUT_S:g} s") from error
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: the run ended before it answered") from error
    if not answer["ok"]:
        raise ConfigurationError(str(answer["text"]))
    return str(answer["text"])


def _received(connection: socket.socket) -> Iterator[bytes]:
    while data := connection.recv(REQUEST_SIZE_BYTES_MAX):
        yield data
