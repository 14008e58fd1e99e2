"""The host does not matter: its time zone, what else is installed. These tests start other Pythons."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import bmsota.gbt32960
from bmsota._extras import needs

ROOT = Path(bmsota.gbt32960.__file__).parents[2]

SCRIPT = """
import json, sys
from bmsota.gbt32960 import Frame, VehicleLogout, beijing_time, decode, encode, nanoseconds
data = bytes.fromhex("232304fe5445535456494e303030303030303035340100081206161015150046e1")
frame = decode(data)
now_ns = 1_772_571_967_000_000_000
print(json.dumps([
    frame.message.time.isoformat(),
    nanoseconds(frame.message.time),
    beijing_time(now_ns).isoformat(),
    encode(Frame(command=4, vin="V", message=VehicleLogout(beijing_time(now_ns), 1))).hex(),
    encode(frame) == data,
]))
"""


def run(script, *options, **environment):
    done = subprocess.run(
        [sys.executable, *options, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/New_York"])
def test_instants_do_not_depend_on_the_hosts_time_zone(zone):
    """The same frame is the same instant everywhere, and always at +08:00."""
    assert json.loads(run(SCRIPT, TZ=zone)) == [
        "2018-06-22T16:21:21+08:00",
        1_529_655_681_000_000_000,
        "2026-03-04T05:06:07+08:00",
        "232304fe56" + "00" * 16 + "010008" + "1a0304050607" + "0001" + "bd",
        True,
    ]


def test_importing_the_cloud_link_is_light():
    """A cloud developer who only decodes frames pays for nothing else."""
    script = "import sys, bmsota.gbt32960; print(' '.join(sys.modules))"
    loaded = set(run(script).split())
    heavy = {
        "numpy",
        "construct",
        "typer",
        "rich",
        "click",
        "cryptography",
        "cbor2",
        "can",
        "cantools",
        "asyncio",
        "socket",
    }
    assert not loaded & heavy


def test_the_front_door_lists_what_it_offers():
    """`__all__` is complete, every name is there, and what is loaded later is in the module that is named for it."""
    front = bmsota.gbt32960
    names = front.__all__
    assert len(names) == len(set(names))
    assert dir(front) == sorted(names)
    for name in names:
        assert getattr(front, name) is not None
    for name, module in front._LATER.items():
        assert hasattr(importlib.import_module(f"bmsota.gbt32960.{module}"), name)
    given = {name for name, value in vars(front).items() if not name.startswith("_")}
    modules = {name for name in given if isinstance(getattr(front, name), types.ModuleType)}
    assert given - modules - {"annotations", "TYPE_CHECKING", "import_module"} == set(names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        front.nothing  # noqa: B018 the access is what is tested


def test_decoding_does_not_load_the_sessions():
    script = "import sys; from bmsota.gbt32960 import FrameReader, decode, encode; print(' '.join(sys.modules))"
    loaded = set(run(script).split())
    assert "bmsota.gbt32960._codec" in loaded
    assert not loaded & {f"bmsota.gbt32960.{name}" for name in ("_session", "_explain")}


# --- nothing installed but this package ------------------------------------------------------------------------------

BARE = "-S"
"""Python without site-packages: no third-party package can be imported."""


def test_everything_can_be_imported_without_any_other_package():
    """Every public name; not one of them is missing because NumPy or cryptography is."""
    run("from bmsota.gbt32960 import *; from bmsota.gbt32960.rows import *", BARE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("decode_batch([])", "decode_batch needs numpy: pip install 'bmsota[can]'"),
        ("encode_batch(FrameColumns())", "encode_batch needs numpy: pip install 'bmsota[can]'"),
        (
            "SymmetricCipher(Encryption.SM4, key=bytes(16), mode=CipherMode.ECB, padding=CipherPadding.NONE)",
            "SymmetricCipher needs cryptography: pip install 'bmsota[trust]'",
        ),
        (
            "RsaVerifier(None, padding=None, hash_algorithm=None).verify(b'', Signature(SignatureAlgorithm.RSA, b'', b''))",
            "RsaVerifier needs cryptography: pip install 'bmsota[trust]'",
        ),
        ("EcdsaSigner(None, hash_algorithm=None)", "EcdsaSigner needs cryptography: pip install 'bmsota[trust]'"),
        ("EcdsaVerifier(None, hash_algorithm=None)", "EcdsaVerifier needs cryptography: pip install 'bmsota[trust]'"),
        ("import bmsota.gbt32960.description", "bmsota.gbt32960.description needs construct: pip install 'bmsota[trust]'"),
    ],
)  # fmt: skip
def test_what_needs_another_package_names_its_extra(call, said):
    script = f"""
from bmsota.errors import BmsotaError, MissingExtraError
from bmsota.gbt32960 import *
try:
    {call}
except MissingExtraError as error:
    assert isinstance(error, BmsotaError) and isinstance(error, ImportError)
    print(error)
"""
    assert run(script, BARE).strip() == said


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        *((name, "trust") for name in ("image", "boot", "node", "bootloader", "flashing", "ota", "master")),
        ("uds", "can"),
    ],
)
def test_a_package_that_cannot_do_without_an_extra_names_it(package, extra):
    """Whichever of its modules is imported: the package comes first."""
    script = f"""
from bmsota.errors import MissingExtraError
try:
    import bmsota.{package}
except MissingExtraError as error:
    print(error)
"""
    assert run(script, BARE).strip().endswith(f": pip install 'bmsota[{extra}]'")


def test_another_missing_module_is_not_blamed_on_an_extra():
    """A package that is there and broken says so itself."""
    with pytest.raises(ModuleNotFoundError, match="nowhere"), needs("it", "numpy", "can"):
        import nowhere  # noqa: F401


def examples():
    """The examples of docs/gbt32960.md, with the extra that their section names, and those of docs/driving.md."""
    page = (ROOT / "docs" / "gbt32960.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        extra = re.search(r"`pip install 'bmsota\[(\w+)\]'`", text)
        for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield pytest.param(block, extra and extra[1], id=title)
    driving = (ROOT / "docs" / "driving.md").read_text(encoding="utf-8")
    yield pytest.param(
        "\n".join(re.findall(r"^```python\n(.*?)^```", driving, re.MULTILINE | re.DOTALL)), None, id="driving"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("block", "extra"), [*examples()])
def test_the_examples_of_the_page_run_without_any_other_package(block, extra):
    """Each by itself, as someone would paste it; those of a section that names an extra end in the line that names it too."""
    script = f"""
import doctest
flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
test = doctest.DocTestParser().get_doctest({block!r}, {{}}, "block", None, 0)
runner = doctest.DocTestRunner(optionflags=flags)
out = []
runner.run(test, out=out.append)
print("".join(out))
"""
    said = run(script, BARE)
    assert (f"bmsota[{extra}]" in said) if extra else not said.strip()
