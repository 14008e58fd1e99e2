"""The overview and the vehicle list of 10,000 vehicles, as a person and a program get it: pages of 50 by HTTP, without the network.

Vehicles, links and newest states are in two SQLite files; a tenth of the fleet is online. The median of CPU time, of all threads.
Asked in turns. The ratio is to the empty list of tasks, which shows nothing of the fleet: what the machine, the web server and
the session add is in both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.domain.presence import Presence
from bmsota_cloud.domain.telemetry import Mark, StateRow
from bmsota_cloud.domain.vehicles import Vehicle
from bmsota_cloud.platform import build_cloud
from bmsota_cloud.services import PlatformKeys, PlatformSettings
from bmsota_cloud.wiring import build_app
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient

from benchmarks._figures import Figure, print_figures

if TYPE_CHECKING:
    from bmsota_cloud.platform import Cloud

VEHICLES = 10_000
ROUNDS = 40
_PASSWORD = "correct horse battery"  # noqa: S105 - of an account that lives for a minute
_NOW = datetime(2026, 11, 29, 8, 0, tzinfo=UTC)
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

_FLOOR = "empty task list"
_ASKED = {
    _FLOOR: "/ota/tasks",
    "overview": "/",
    "overview page 150 by SOC": "/?page=150&sort=soc",
    "overview with faults": "/?state=faults",
    "overview offline, one project": "/?state=offline&project=P3",
    "overview text": "/?q=00042",
    "overview map": "/map/vehicles",
    "overview map in groups": "/map/vehicles?grouped=yes&zoom=4&bounds=15,70,55,140",
    "overview REST map": "/api/v1/overview/map",
    "list": "/vehicles",
    "list page 150": "/vehicles?page=150",
    "list online": "/vehicles?online=yes",
    "list offline, one project": "/vehicles?online=no&project=P3",
    "list series": "/vehicles?series=E7",
    "list text": "/vehicles?q=00042",
    "list REST online": "/api/v1/vehicles?online=true",
}


def overview() -> list[Figure]:
    """One figure an address."""
    with tempfile.TemporaryDirectory() as folder:
        cloud = build_cloud(
            keys=PlatformKeys(order_signing_key=_KEY, manifest_public_keys=(), image_public_keys=()),
            data_dir=Path(folder),
            settings=PlatformSettings(password_memory_kib=64, password_passes=1, password_lanes=1),
            clock=lambda: _NOW,
        )
        try:
            _fill(cloud)
            with TestClient(build_app(cloud)) as client:
                found = _medians_ms(client)
        finally:
            cloud.close()
    floor_ms = found[_FLOOR]
    return [Figure(name, ms, "ms CPU", round(ms / floor_ms, 2), _FLOOR) for name, ms in found.items()]


def _fill(cloud: Cloud) -> None:
    vins = [f"LTEST{number:012d}" for number in range(VEHICLES)]
    with cloud.store.transaction() as work:
        for number, vin in enumerate(vins):
            work.vehicles.add(
                Vehicle(
                    vin=vin,
                    series="E7" if number % 5 == 0 else "F7",
                    project=f"P{number % 8}",
                    hwid=f"HW-{number:08d}",
                    device_public_key=b"k" * 32,
                    registered_at=_NOW,
                )
            )
        presences = [
            Presence(
                vin=vin,
                gateway_id="local",
                link_id=number,
                since=_NOW,
                login_serial=1,
                left_at=None if number % 10 == 0 else _NOW,
            )
            for number, vin in enumerate(vins, 1)
        ]
        work.presence.save(presences, [])
    now_ns = int(_NOW.timestamp()) * 1_000_000_000
    states = [
        StateRow(
            vin,
            now_ns - number * 1_000_000,
            soc_pct=float(number % 101),
            alarm_level=3 if number % 50 == 0 else 0,
            frames=bytes(342),
            memory=bytes(40),
            latitude_deg=20 + number % 97 / 4,
            longitude_deg=75 + number % 211 / 4,
            is_position_valid=True,
        )
        for number, vin in enumerate(vins)
    ]
    cloud.telemetry.save_derived(states, (), Mark())
    cloud.services.accounts.create(
        name="vera", email="vera@example.org", role=Role.VIEWER, password=_PASSWORD, now=_NOW
    )


def _medians_ms(client: TestClient) -> dict[str, float]:
    login = {"name": "vera", "password": _PASSWORD}
    headers = {"Authorization": f"Bearer {client.post('/api/v1/login', json=login).json()['token']}"}
    client.post("/login", data={**login, "next": "/"})
    spent: dict[str, list[float]] = {name: [] for name in _ASKED}
    for _ in range(ROUNDS):
        for name, address in _ASKED.items():
            begin = time.process_time()
            answer = client.get(address, headers=headers)
            spent[name].append(time.process_time() - begin)
            answer.raise_for_status()
    return {name: round(1000 * statistics.median(times), 2) for name, times in spent.items()}


if __name__ == "__main__":
    print_figures("overview", overview)
