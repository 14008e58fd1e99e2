"""What a run is given: everything that decides what its units do, as plain values that another process or machine understands.

A `RunGiven` is made once, from the command line. `prepare` reads what it names; a shard on another machine reads the same
files at the same paths there, so no private key travels.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from bmsota import __version__
from bmsota.adapters.tls import client_context
from bmsota.errors import ConfigurationError
from bmsota_sim.recordings.reading import read_recorded
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.check import check
from bmsota_sim.run.keys import load_run_keys

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from bmsota_sim.recordings.playback import Played
    from bmsota_sim.run.keys import RunKeys
    from bmsota_sim.run.model import FleetScenario

__all__ = ["ApiOptions", "Prepared", "RunGiven", "Target", "prepare"]

DEFAULT_PORT = 32960
LATENESS_LIMIT_S = 1.0


class ApiOptions(NamedTuple):
    """How the REST API of our own platform is reached; passwords are in the environment alone."""

    url: str
    user: str
    admin: str | None
    auditor: str | None
    mailbox: str
    mail_listen: str | None
    code_command: str | None

    @property
    def origin(self) -> str:
        """Scheme, host and port: where the units expect the platform."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunGiven:
    """Everything that a run is given."""

    scenario_text: str
    """YAML; that of a recording is made by `prepare`."""
    scenario_name: str
    """For messages."""
    seed: int
    to: str | None
    """tcp:// or tls://; None: virtual time."""
    count: int | None = None
    """Number of units in all, in place of the scenario's."""
    edition: int | None = None
    speed: float = 1.0
    run_for_s: float | None = None
    source_address: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    lateness_limit_s: float = LATENESS_LIMIT_S
    keys: str | None = None
    order_key: str | None = None
    api: ApiOptions | None = None
    recording: tuple[str, ...] = ()
    loop: int = 1
    gap_max_s: float | None = None
    keep_times: bool = False
    steered: tuple[dict[str, Any], ...] = field(default=(), hash=False)
    """By what an earlier run was steered."""
    workers: int | None = None
    """Number of shards; None: one process carries it out."""
    dask: str | None = None
    """Address of the scheduler whose workers carry the shards out."""
    version: str = __version__

    @property
    def is_virtual(self) -> bool:
        return self.to is None

    def end_ns(self, scenario: FleetScenario) -> int:
        """When it ends at the latest, from its start."""
        return round(min(scenario.duration_s, self.run_for_s or scenario.duration_s) * NS_PER_S)

    def options(self) -> list[str]:
        """The options of the command that runs it again; without the scenario, and without where its report goes."""
        return [part for pair in self._options() for part in pair]

    def _options(self) -> Iterator[tuple[str, ...]]:
        yield ("--virtual",) if self.to is None else ("--to", self.to)
        for option, value in (
            ("--count", self.count),
            ("--edition", self.edition),
            ("--speed", None if self.speed == 1.0 else f"{self.speed:g}"),
            ("--run-for", None if self.run_for_s is None else f"{self.run_for_s:g}"),
            ("--source-address", self.source_address),
            ("--tls-ca", self.tls_ca),
            ("--tls-cert", self.tls_cert),
            ("--tls-key", self.tls_key),
            ("--lateness-limit", None if self.lateness_limit_s == LATENESS_LIMIT_S else f"{self.lateness_limit_s:g}"),
            ("--keys", self.keys),
            ("--order-key", self.order_key),
        ):
            if value is not None:
                yield option, str(value)
        if (api := self.api) is not None:
            for option, text in (
                ("--api", api.url),
                ("--api-user", api.user),
                ("--api-admin", api.admin),
                ("--api-auditor", api.auditor),
                ("--audit-mailbox", api.mailbox if api.admin else None),
                ("--mail-listen", api.mail_listen),
                ("--code-command", api.code_command),
            ):
                if text is not None:
                    yield option, text
        for path in self.recording:
            yield "--recording", path
        if self.loop != 1:
            yield "--loop", str(self.loop)
        if self.gap_max_s is not None:
            yield "--gap-max", f"{self.gap_max_s:g}"
        if self.keep_times:
            yield ("--keep-times",)
        if self.workers is not None:
            yield "--workers", str(self.workers)
        if self.dask is not None:
            yield "--dask", self.dask
        yield "--seed", str(self.seed)

    def command(self, scenario: str | None, *more: str) -> str:
        """The line that runs it again. *scenario*: where it is now; None for a recording."""
        words = [*([] if scenario is None else [scenario]), *self.options(), *more]
        return " ".join(["bmsota-sim run", *map(quote, words)])


class Target(NamedTuple):
    """A GB/T 32960 platform."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class Prepared(NamedTuple):
    """What a run was given, read and checked."""

    given: RunGiven
    scenario: FleetScenario
    keys: RunKeys
    target: Target | None
    """None: virtual time."""
    sources: tuple[str, ...]
    """Addresses to connect from; none: the system's."""
    played: Played | None
    skipped: dict[str, int]
    """What of a recording is not sent, and how much of it."""

    @property
    def end_ns(self) -> int:
        """When it ends at the latest, from its start."""
        return self.given.end_ns(self.scenario)


def prepare(given: RunGiven) -> Prepared:
    """Read the files that it names, and check everything.

    Raises:
        BmsotaError: something is wrong; the message says what.
        OSError: a file cannot be read.
    """
    played, skipped = None, {}
    if given.recording:
        found = read_recorded(
            list(given.recording), count=given.count, seed=given.seed, loops=given.loop, gap_max_s=given.gap_max_s
        )
        played, skipped = found.played(shift=not given.keep_times), found.skipped
        given = replace(given, scenario_text=found.scenario_text().decode())
    count = None if given.recording else given.count  # A recording's scenario has the right number already.
    checked = check(given.scenario_text.encode(), given.scenario_name, given.seed, count=count)
    return Prepared(
        given=given,
        scenario=checked.scenario,
        keys=load_run_keys(_path(given.keys), _path(given.order_key)),
        target=None if given.to is None else _target(given, given.to),
        sources=tuple(_sources(given.source_address)),
        played=played,
        skipped=skipped,
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _target(given: RunGiven, to: str) -> Target:
    parts = urlsplit(to)
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise ConfigurationError(f"--to {to}: {error}") from error
    if parts.scheme not in {"tcp", "tls"} or not parts.hostname or parts.path.strip("/"):
        raise ConfigurationError(f"--to: expected tcp://HOST:PORT or tls://HOST:PORT, got {to}")
    ca, cert, key = _path(given.tls_ca), _path(given.tls_cert), _path(given.tls_key)
    if parts.scheme == "tcp" and (ca or cert or key):
        raise ConfigurationError(f"--tls-ca, --tls-cert and --tls-key need --to tls://..., got {to}")
    return Target(parts.hostname, port, client_context(ca=ca, cert=cert, key=key) if parts.scheme == "tls" else None)


def _sources(text: str | None) -> list[str]:
    """`127.0.0.2`, or `127.0.0.2-9`: the last number is counted up."""
    if text is None:
        return []
    first, _, last = text.partition("-")
    try:
        start = ipaddress.IPv4Address(first)
        end = int(last) if last else int(start) & 0xFF
    except ValueError:
        end = -1
    else:
        if int(start) & 0xFF <= end <= 255:
            return [str(start + index) for index in range(end - (int(start) & 0xFF) + 1)]
    raise ConfigurationError(f"--source-address: expected an IPv4 address or a range such as 127.0.0.2-9, got {text}")
