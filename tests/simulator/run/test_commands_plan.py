"""`bmsota-sim check`, `vehicles`, `schema`, and the scenarios that are ready to run."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import bmsota_sim.run
import pytest
from bmsota_sim._commands import app
from bmsota_sim.identity import vin_with_check_digit
from bmsota_sim.run.check import check, json_schema
from bmsota_sim.run.identities import check_group_codes, group_code, identity, slave_hwid
from bmsota_sim.run.scenario import VERBS, packaged_names, packaged_text, parse_scenario, with_count
from bmsota_sim.run.selection import UnitId, group_units
from typer.testing import CliRunner

from bmsota.errors import ConfigurationError

SMALL = """
name: small
duration: 10min
groups:
  cars: { profile: F7, count: 3 }
  vans: { profile: F7, count: 2 }
timeline:
  - { at: 1min, do: cell_failure, who: cars/2, slave: 2, cell: 7 }
  - { at: 2min, do: platform_outage, for: 30s }
expect:
  - { what: sent, above: 0 }
"""


def invoke(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", packaged_names())
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_ready_scenario_can_run(name, seed):
    """With other seeds too, and at a hundred and at fifty thousand units."""
    data = packaged_text(name).encode()
    checked = check(data, name, seed)
    assert checked.scenario.name == name
    assert checked.scenario.description
    assert checked.scenario.expect
    check(data, name, seed, count=50_000)


def test_the_scenarios_that_are_promised_are_there():
    assert set(packaged_names()) == {
        "bad-release", "cloud-outage", "daily", "ota-rollout", "real-habits", "slave-swap", "soak", "storm", "thermal-event",
    }  # fmt: skip


def test_check_prints_who_does_what_when(small):
    result = invoke("check", small)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "small: 5 units, 10min, seed 1" in lines
    assert "1min 10min cell failure (slave 2, cell 7, mode weak) 1 cars/2" in lines
    assert "2min 2min 30s platform outage the platform" in lines
    assert "expects sent of all: above 0, at the end" in lines


def test_check_takes_a_name_a_seed_and_a_count():
    result = invoke("check", "storm", "--seed", "7", "--count", "200")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("storm: 200 units, 20min, seed 7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("strom",), "no scenario 'strom'; did you mean 'storm'?"),
        (("nowhere/x.yaml",), "nowhere/x.yaml: No such file or directory"),
        (("storm", "--count", "1"), "count: expected 2 to 100,000 units for storm, got 1"),
        (
            ("fixed.yaml", "--count", "9"),
            "fixed with 9 units: timeline[0].who: expected a number from 1 to 1 in group 'few', got 3",
        ),
        (("./",), "./: Is a directory"),
        (("a\0b.yaml",), "'a\\x00b.yaml': embedded null byte"),
    ],
)
def test_what_cannot_be_read_ends_with_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fixed.yaml").write_text(
        "name: fixed\nduration: 60s\ngroups: { many: { profile: E7, count: 90 }, few: { profile: E7, count: 3 } }\n"
        "timeline: [{ at: 1s, do: storm, who: few/1-3 }]\n"
    )
    result = invoke("check", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


def test_a_problem_is_told_as_compilers_do(tmp_path):
    """Editors and terminals jump to `file:line:column`."""
    path = tmp_path / "my.yaml"
    path.write_text(SMALL.replace("F7, count: 3", "F8, count: 3"), encoding="utf-8")
    result = invoke("check", str(path))
    assert result.exit_code == 2
    assert result.stderr == f"{path}:5:20: groups.cars.profile: no profile 'F8'; there are E7, E7-22, F7, F7-144\n"


def test_vehicles_are_listed(small):
    result = invoke("vehicles", small, "--csv", "--seed", "4")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    scenario = parse_scenario(SMALL)
    for unit, row in zip(group_units(scenario), rows, strict=True):
        who = identity(scenario, 4, unit)
        assert (row["unit"], row["vin"], row["iccid"], row["master_hwid"]) == (
            str(unit),
            who.vin,
            who.iccid,
            who.master_hwid,
        )
        assert row["slave_hwids"].split() == list(who.slave_hwids)
        assert bytes.fromhex(row["public_key"]) == who.device_key.public_key().public_bytes_raw()
    # What a platform registers once is the same for every seed.
    again = list(csv.DictReader(io.StringIO(invoke("vehicles", small, "--csv", "--seed", "5").stdout)))
    assert [(row["vin"], row["iccid"]) for row in again] == [(row["vin"], row["iccid"]) for row in rows]
    assert all(mine["public_key"] != theirs["public_key"] for mine, theirs in zip(rows, again, strict=True))
    table = invoke("vehicles", small).output
    assert all(row["vin"] in table for row in rows)


def test_identities_are_unique_and_well_formed():
    """Over groups of one profile too."""
    scenario = with_count(parse_scenario(SMALL), 300)
    everyone = [identity(scenario, 1, unit) for unit in group_units(scenario)]
    assert len({who.vin for who in everyone}) == 300
    assert len({who.iccid for who in everyone}) == 300
    hwids = [hwid for who in everyone for hwid in (who.master_hwid, *who.slave_hwids)]
    assert len(set(hwids)) == len(hwids) == 300 * 9
    assert {len(hwid) for hwid in hwids} == {16}
    for who in everyone:
        assert re.fullmatch(r"[0-9A-HJ-NPR-Z]{17}", who.vin)
        assert vin_with_check_digit(who.vin) == who.vin
        assert re.fullmatch(r"[0-9]{20}", who.iccid)


def test_a_further_unit_or_group_changes_no_identity():
    small = parse_scenario(SMALL)
    larger = parse_scenario(
        SMALL.replace("groups:\n", "groups:\n  new: { profile: E7, count: 9 }\n").replace("count: 3", "count: 30")
    )
    for unit in group_units(small):
        mine, theirs = identity(small, 1, unit), identity(larger, 1, unit)
        assert (mine.vin, mine.iccid, mine.master_hwid, mine.slave_hwids) == (
            theirs.vin,
            theirs.iccid,
            theirs.master_hwid,
            theirs.slave_hwids,
        )


def test_replaced_slaves_have_hardware_ids_of_their_own():
    unit = UnitId("cars", 1)
    ids = [slave_hwid(1, unit, 2, generation=generation) for generation in range(36)]
    assert len(set(ids)) == 36
    with pytest.raises(ConfigurationError, match="at most 35 replacements of slave 2"):
        slave_hwid(1, unit, 2, generation=36)


def test_groups_whose_codes_are_equal_are_refused(monkeypatch):
    scenario = parse_scenario(SMALL)
    assert group_code("cars") != group_code("vans")
    assert not list(check_group_codes(scenario))
    monkeypatch.setattr("bmsota_sim.run.identities.group_code", lambda _group: "AAAA")
    assert list(check_group_codes(scenario)) == ["the groups 'cars' and 'vans' would share their VINs; rename one"]


def test_the_packaged_schema_is_that_of_the_model():
    """`bmsota-sim schema > simulator/bmsota_sim/run/scenario.schema.json` after a change of the language."""
    packaged = Path(bmsota_sim.run.__file__).with_name("scenario.schema.json").read_text(encoding="utf-8")
    assert json.loads(packaged) == json_schema() == json.loads(invoke("schema").stdout)


def test_the_schema_knows_every_verb_and_refuses_unknown_keys():
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    verbs = {
        part["properties"]["do"]["const"] for part in schema["$defs"].values() if "do" in part.get("properties", {})
    }
    assert verbs == set(VERBS)
    assert all(
        part["additionalProperties"] is False
        for part in (schema, *schema["$defs"].values())
        if part["type"] == "object"
    )
    assert schema["required"] == ["name", "duration", "groups"]


def test_ready_scenarios_name_the_packaged_schema():
    """Editors complete and check them offline."""
    folder = Path(bmsota_sim.run.__file__).parent / "packaged"
    for path in folder.iterdir():
        match = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text(encoding="utf-8"))
        assert match, path
        assert (folder / match[1]).resolve() == folder.with_name("scenario.schema.json")


def test_groups_keep_their_proportions():
    scenario = with_count(parse_scenario(SMALL.replace("count: 3", "count: 300").replace("count: 2", "count: 200")), 50)
    assert {name: group.count for name, group in scenario.groups.items()} == {"cars": 30, "vans": 20}
