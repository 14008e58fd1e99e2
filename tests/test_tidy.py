"""The rules of the tree, held on source text: who may import whom, and what the cores may not touch.

On source text, not on loaded modules: cantools, a codec, loads python-can whatever part of it is imported.
"""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Where the three packages lie; the last part is the import name.
OURS = ("bmsota", "simulator/bmsota_sim", "cloud/bmsota_cloud")

# The core decides, the edges act: these modules open, wait, read clocks or draw unseeded randomness.
BANNED_IN_CORE = {
    "asyncio", "can", "concurrent", "glob", "httpx", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "secrets", "select", "shutil", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "typer", "rich",
    "serial", "sqlalchemy", "fastapi", "uvicorn", "numpy",
}  # fmt: skip
# The columnar codecs compute with NumPy; they are the one exception, and are imported when first used.
CORE_EXCEPTIONS: dict[str, set[str]] = {
    "bmsota/gbt32960/_columns/batch.py": {"numpy"},
    "bmsota/gbt32960/_columns/few.py": {"numpy"},
    "bmsota/gbt32960/_columns/late.py": {"numpy"},
    "bmsota/gbt32960/_columns/header.py": {"numpy"},
    "bmsota/gbt32960/_columns/mixed.py": {"numpy"},
    "bmsota/gbt32960/_columns/numbers.py": {"numpy"},
    "bmsota/gbt32960/_columns/plan.py": {"numpy"},
    "bmsota/gbt32960/_columns/values.py": {"numpy"},
    "bmsota/signals/_batch.py": {"numpy"},
    "bmsota/signals/_columns.py": {"numpy"},
    "bmsota/signals/_crc.py": {"numpy"},
    "bmsota/signals/_protection.py": {"numpy"},
}
# Calls that open, wait or read a clock without an import of their own.
BANNED_CALLS = {"open", "input", "print"}
CANTOOLS_ONLY_IN = "bmsota/signals/_parse.py"

# One file may start an embedded cloud beside a fleet.
DEMO_WIRING = "simulator/bmsota_sim/embedded_cloud.py"

# asyncpg, which takes reports in (decision 40), has no other way to be called; its loop is nobody else's.
CLOUD_EXCEPTIONS: dict[str, set[str]] = {
    "cloud/bmsota_cloud/storage/sql/telemetry_postgresql.py": {"asyncio"},
}

WEB = {"fastapi", "starlette", "uvicorn", "websockets", "asyncio", "socket", "httpx", "jinja2"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """Absolute names of every module that *path* imports anywhere, also inside functions and for typing.

    Kept, because a file is asked about by several rules; the trees are not: they would be a burden for all tests after these.
    """
    found: set[str] = set()
    place = relative(path).removeprefix("simulator/").removeprefix("cloud/")
    package = place.removesuffix(".py").removesuffix("/__init__").split("/")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                keep = len(package) - node.level + (1 if path.name == "__init__.py" else 0)
                base = ".".join([*package[:keep], *([node.module] if node.module else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(found)


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


def is_core(path: Path) -> bool:
    return not relative(path).startswith(("bmsota/adapters/", "bmsota/cli/"))


def test_there_is_something_to_check():
    assert all(len(sources(folder)) > 5 for folder in OURS)


@pytest.mark.parametrize("path", sources("bmsota"), ids=relative)
def test_the_library_imports_nothing_of_ours(path):
    assert not roots(path) & {"bmsota_sim", "bmsota_cloud", "tests", "benchmarks"}


@pytest.mark.parametrize("path", sources("simulator/bmsota_sim"), ids=relative)
def test_the_simulator_does_not_know_the_cloud(path):
    """Except the one file that wires the demo."""
    if relative(path) != DEMO_WIRING:
        assert "bmsota_cloud" not in roots(path)


@pytest.mark.parametrize("path", sources("cloud/bmsota_cloud"), ids=relative)
def test_the_cloud_does_not_know_the_simulator(path):
    assert "bmsota_sim" not in roots(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in sources("bmsota") if is_core(path)], ids=relative)
def test_a_core_neither_opens_nor_waits_nor_reads_a_clock(path):
    banned = BANNED_IN_CORE - CORE_EXCEPTIONS.get(relative(path), set())
    assert not roots(path) & banned
    if relative(path) != CANTOOLS_ONLY_IN:
        assert "cantools" not in roots(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & BANNED_CALLS
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not attributes & {
        "datetime.now",
        "datetime.utcnow",
        "datetime.today",
        "date.today",
        "time.time",
        "uuid.uuid4",
    }


@pytest.mark.parametrize("path", [path for path in sources("bmsota") if is_core(path)], ids=relative)
def test_a_core_does_not_know_the_edges_of_the_library(path):
    assert not {name for name in imported_modules(path) if name.startswith(("bmsota.adapters", "bmsota.cli"))}


# What each part of the platform may import of the platform. A part that is not named here is a new one: say where it stands.
CLOUD_MAY_IMPORT: dict[str, set[str]] = {
    "domain": set(),
    "clock.py": {"domain"},
    "storage": {"domain"},
    "services": {"domain", "storage"},
    "descriptors.py": set(),
    "web_server.py": set(),
    "folders.py": set(),
    "config.py": {"services"},
    "tls.py": set(),
    "keys.py": {"folders", "services"},
    "link_keys.py": {"services"},
    "platform_logins.py": {"domain"},
    "mail": {"domain", "services"},
    "gateway": {"clock", "domain", "services"},
    "api": {"clock", "domain", "services", "vehicle_file"},
    "pages": {"clock", "domain", "services", "vehicle_file"},
    "platform.py": {"api", "clock", "domain", "export_files", "folders", "gateway", "services", "storage"},
    "export_files.py": {"domain", "folders", "services"},
    "wiring.py": {
        "api",
        "clock",
        "descriptors",
        "domain",
        "gateway",
        "keys",
        "mail",
        "pages",
        "platform",
        "services",
        "web_server",
    },
    "__main__.py": {"cli"},
    "backup.py": {"folders", "storage"},
    "cli.py": {
        "backup",
        "clock",
        "config",
        "domain",
        "keys",
        "link_keys",
        "mail",
        "platform",
        "platform_logins",
        "remote_commands",
        "services",
        "tls",
        "vehicle_file",
        "wiring",
    },
    "remote_commands.py": set(),
    "vehicle_file.py": {"domain", "services"},
    "__init__.py": set(),
}


@pytest.mark.parametrize("path", sources("cloud/bmsota_cloud"), ids=relative)
def test_each_layer_of_the_cloud_keeps_to_itself(path):
    """Only storage knows SQL; only gateway, api and pages know the network; services see storage by its Protocols."""
    folder = relative(path).split("/")[2]
    used = roots(path)
    names = {name for name in imported_modules(path) if name.startswith("bmsota_cloud.")}
    assert {name.split(".")[1] for name in names} <= CLOUD_MAY_IMPORT[folder] | {folder.removesuffix(".py")}
    if folder != "storage":
        assert not used & {"sqlalchemy", "alembic", "sqlite3"}
    if folder in {"domain", "services", "storage"}:
        assert not used & (WEB - CLOUD_EXCEPTIONS.get(relative(path), set()))
    if folder == "services":
        assert not {name for name in names if name.startswith("bmsota_cloud.storage.sql")}


# The floors of the library, top first: a room may import what stands below it, and nothing beside it (docs/architecture.md).
FLOORS = (
    {"cli"},
    {"adapters"},
    {"master"},
    {"flashing"},
    {"bootloader", "uds", "ota"},
    {"node"},
    {"gbt32960", "boot", "slcan"},
    {"signals", "image"},
    {"can_timing"},
    {"checksums", "canframe", "compression"},
    {"_needs_can", "_needs_trust"},
    {"_extras"},
    {"errors", "_words"},
)


def room(module: str) -> str:
    """`bmsota.gbt32960._codec` -> `gbt32960`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def floor(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name in rooms)


def test_every_room_has_its_floor():
    rooms = {path.stem if path.parent == ROOT / "bmsota" else room(module_of(path)) for path in sources("bmsota")}
    assert rooms - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("path", sources("bmsota"), ids=relative)
def test_a_room_imports_only_what_stands_below_it(path):
    """Typing imports included."""
    mine = room(module_of(path))
    if not mine:  # bmsota/__init__.py
        assert not {name for name in imported_modules(path) if name.startswith("bmsota.")}
        return
    for name in imported_modules(path):
        if name.startswith("bmsota.") and (other := room(name)) != mine and other != "__version__":
            assert floor(other) > floor(mine), f"{mine} imports {other} ({name})"


def module_of(path: Path) -> str:
    """The name by which *path* is imported."""
    place = (
        relative(path).removeprefix("simulator/").removeprefix("cloud/").removesuffix(".py").removesuffix("/__init__")
    )
    return place.replace("/", ".")


def imported_files() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, typing imports included; `from package import module` is the module."""
    modules = {module_of(path): path for folder in OURS for path in sources(folder)}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = imported_modules(path) & set(modules)
        # `from package import module` names both; what is meant is the module.
        graph[module] = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                module_names = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[module] |= set() if module_names <= set(modules) else {node.module}
        graph[module].discard(module)
    return graph


@pytest.mark.slow
def test_no_file_imports_itself_in_a_circle():
    """Not even for typing: a circle of files is one file."""
    graph = imported_files()
    assert len(graph) > 200
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set(), list(graph[start])
        while todo:
            if (name := todo.pop()) not in seen:
                seen.add(name)
                todo += graph[name]
        reach[start] = seen
    circles = {
        tuple(sorted({start} | {name for name in reach[start] if start in reach[name]}))
        for start in graph
        if start in reach[start]
    }
    assert not circles, "\n".join(" <-> ".join(each) for each in sorted(circles))


@pytest.mark.slow
def test_one_public_class_name_has_one_meaning():
    places: dict[str, list[str]] = {}
    for path in [path for folder in OURS for path in sources(folder)]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(relative(path))
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
                name = ast.unparse(node.target)
                if not name.startswith("_"):
                    places.setdefault(name, []).append(relative(path))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice


def test_no_option_of_the_command_line_is_named_in_the_library():
    """The library states what is wrong; which option helps is the command line's to say."""
    options = {
        option
        for path in sources("bmsota/cli")
        for option in re.findall(r'"(--[a-z][a-z-]+)"', path.read_text(encoding="utf-8"))
    }
    assert {"--timeout", "--force"} <= options
    named = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
    found = {
        relative(path): options & set(named.findall(path.read_text(encoding="utf-8")))
        for path in sources("bmsota")
        if not relative(path).startswith("bmsota/cli/")
    }
    assert not {place: each for place, each in found.items() if each}


def test_physics_knows_no_device():
    for path in sources("simulator/bmsota_sim/physics"):
        assert not {
            name for name in imported_modules(path) if f"{name}.".startswith(("bmsota.", "bmsota_sim.devices."))
        }


def tracked_text_files() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")  # fmt: skip
    return [
        ROOT / name for name in names if name.endswith((".py", ".md", ".toml", ".yaml", ".html", ".js", ".css", ".dbc"))
    ]


def test_no_leftovers():
    """No unfinished work, no path of a developer's machine, no tab or trailing blank in Python."""
    unfinished = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError")
    machine = re.compile(r"(^|[^A-Za-z0-9._-])/(work|farm|root|home)/")
    mine = Path(__file__).resolve()
    for path in tracked_text_files():
        if path == mine or not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        place = relative(path)
        assert not machine.search(text), place
        if path.suffix == ".py":
            assert not unfinished.search(text), place
            assert "\t" not in text, place
            assert not re.search(r"[ \t]+$", text, re.MULTILINE), place
