"""What importing costs, and what is public."""

import subprocess
import sys

import pytest

import bmsota.image
import bmsota.ota

HEAVY = ("can", "cantools", "numpy", "pydantic", "httpx", "fastapi", "sqlalchemy", "typer", "asyncio")


@pytest.mark.parametrize("package", ["bmsota.image", "bmsota.ota"])
def test_importing_pulls_nothing_heavy(package):
    """A signer or a cloud developer pays for cryptography, CBOR and construct, not for drivers and frameworks."""
    code = f"import sys, {package}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", [bmsota.image, bmsota.ota])
def test_what_is_public_is_there(package):
    """`__all__` is written by hand; no name twice, every name real."""
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert hasattr(package, name), name
