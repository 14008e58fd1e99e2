"""The description of the REST API (OpenAPI) holds: schemathesis asks what it allows and what it forbids."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import httpx
import pytest
from http_server import http_port
from long_run import LONG, seeds

# What would end the session that asks.
ENDS_SESSIONS = r"logout|/me/(password|sessions)|accounts/\{name\}(/(sessions|reset|disable|enable))?"
# Not asked: that all which the description allows is done (rules between fields, and who or what there is, are told by a sentence), and
# that "preview" beside {task_id}, and "import" beside {vin}, have no method of theirs.
EXCLUDED = "positive_data_acceptance,unsupported_method,allow_header_conformance"
PHASES = "coverage,fuzzing" if LONG else "fuzzing"
OPERATIONS_MIN = 40
EXAMPLES = 60 if LONG else 2


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed: make test installs it")
@pytest.mark.parametrize("name", ["adam", "olaf", "vera"] if LONG else ["adam"])
@pytest.mark.parametrize("seed", seeds())
def test_the_api_keeps_to_its_description(world, name, seed, tmp_path):
    """No answer is a fault of ours, of another type or shape than described, or given to a stranger."""
    for number in range(1, 4):
        world.register(number)
        world.identify(number)
    world.upload()
    world.create(1)
    with http_port(world.cloud) as port:
        url = f"http://127.0.0.1:{port}/api/v1"
        answer = httpx.post(f"{url}/login", json={"name": name, "password": "correct horse battery"})
        words = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color"),
            *("--header", f"Authorization: Bearer {answer.json()['token']}", "--exclude-path", "/api/v1/login"),
            *("--exclude-path-regex", ENDS_SESSIONS, "--exclude-checks", EXCLUDED),
            *("--seed", str(seed), "--max-examples", str(EXAMPLES), "--phases", PHASES),
            *("--request-timeout", "120", "--generation-deterministic"),
        ]
        done = subprocess.run(words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
        who = httpx.get(f"{url}/me", headers={"Authorization": f"Bearer {answer.json()['token']}"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"Tested: (\d+)", done.stdout)[1]) >= OPERATIONS_MIN
    assert who.status_code == 200, "the session ended before all was asked"
