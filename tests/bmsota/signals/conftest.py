from __future__ import annotations

import sys
from pathlib import Path

import cantools
import pytest

from bmsota.adapters.files import packaged_dbc, packaged_dbc_names
from bmsota.signals import loads

sys.path.insert(0, str(Path(__file__).parent))  # For `dbc_layouts`: tests have no packages.


@pytest.fixture(scope="session", params=packaged_dbc_names())
def project_dbc(request):
    """(our database, cantools' strict database) of one of the project's DBC files."""
    text = packaged_dbc(request.param)
    return loads(text), cantools.database.load_string(text, database_format="dbc", strict=True)


@pytest.fixture(scope="session")
def internal():
    return loads(packaged_dbc("bms_internal"))
