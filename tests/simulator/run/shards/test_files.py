"""Shards that nobody coordinates: each writes its part, and `bmsota-sim merge` judges them as one process would."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from bmsota_sim._commands import app
from typer.testing import CliRunner

SCENARIO = """
name: parts
duration: 20s
groups: { f: { profile: E7, count: 3 } }
life: { report: 5s, heartbeat: 8s }
timeline: [{ at: 3s, do: storm, who: 50%, name: s }]
expect:
  - { what: sent, since: 6s, by: 15s, at_least: 3 }
  - { what: logged_in, by: 18s, at_least: 100% }
"""
DEPLOY = Path(__file__).parents[4] / "deploy" / "kubernetes"


def invoke(*words):
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scenario, its report of one process, and the parts of two shards."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "scenario.yaml").write_text(SCENARIO)
    run = ("run", folder / "scenario.yaml", "--virtual", "--seed", 5)
    assert invoke(*run, "--report", folder / "whole").exit_code == 0
    for index in range(2):
        result = invoke(*run, "--shard", f"{index}/2", "--report", folder / "parts")
        assert result.exit_code == 0, result.output
        assert f"shard {index + 1} of 2: {2 - index} units, 20 s; wrote " in result.output
    return folder


def test_merged_parts_are_the_report_of_one_process(folder, tmp_path):
    result = invoke("merge", folder / "parts", "--report", tmp_path / "out")
    assert result.exit_code == 0, result.output
    merged, whole = (json.loads((each / "run.json").read_text()) for each in (tmp_path / "out", folder / "whole"))
    assert {key: merged[key] for key in merged.keys() - {"given", "shards"}} == {
        key: whole[key] for key in whole.keys() - {"given", "shards"}
    }
    for name in ("junit.xml", "units.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    assert "--workers 2" in merged["given"]["replay"]
    replayed = invoke("replay", tmp_path / "out" / "run.json", "--unit", "f/2")
    assert replayed.exit_code == 0
    assert "replayed f/2, 20.000 s: the same trace" in replayed.output


def changed(path, change):
    document = json.loads(gzip.decompress(path.read_bytes()))
    change(document)
    path.write_bytes(gzip.compress(json.dumps(document).encode()))


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def set_to(*keys):
    *way, last, value = keys

    def change(document):
        for key in way:
            document = document[key]
        document[last] = value

    return lambda path: changed(path, change)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "the parts of shards 1 of 2 are missing; give all parts of the run"),
        (cut, "expected a part of a run, got another file"),
        (lambda path: path.write_bytes(b"\0" * 100), "Not a gzipped file"),
        (lambda path: path.write_bytes(gzip.compress(b"[1]")), "expected a part of a run, got another file"),
        (set_to("format", 2), "expected format 1, got 2"),
        (set_to("given", "seed", 6), "this part is of another run than .*: it was given another seed"),
        (set_to("given", "keyz", 6), "expected a part of a run, got another file"),
        (set_to("index", 0), "shard 1 of 2 is there already, in "),
        (set_to("index", 2), "expected an index from 0 to 1, got 2"),
        (set_to("count", 3), "expected a part of 2 shards, as .*, got one of 3"),
        (set_to("end", "hashes", {"f/9": ""}), "a part has other units than this version deals out to its shard"),
        (set_to("end", "part", "counts", "shape", [9, 99]), "expected a part of a run, got another file"),
        (set_to("end", "part", "counts", "places", [10**9]), "expected a part of a run, got another file"),
        (set_to("end", "part", "not_started", [7]), "expected a part of a run, got another file"),
        (set_to("end", "part", "firsts", {"7": {}}), "expected a part of a run, got another file"),
        (set_to("end", "part", "latencies", "shape", [10**6, 10**6]), "expected a part of a run, got another file"),
        (set_to("end", "samples", [{}]), "expected a part of a run, got another file"),
    ],
)  # fmt: skip
def test_what_is_no_whole_set_of_parts_is_refused(folder, tmp_path, spoil, says):
    shutil.copytree(folder / "parts", tmp_path / "parts")
    spoil(tmp_path / "parts" / "shard-1-of-2.json.gz")
    result = invoke("merge", tmp_path / "parts", "--report", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert re.search(says, result.output.replace("\n", " ")), result.output
    assert not isinstance(result.exception, (KeyError, TypeError, ValueError, IndexError))
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_moment_that_a_part_does_not_tell_is_refused(folder, tmp_path):
    """Without it nothing could be judged that was due then, and nothing after."""
    shutil.copytree(folder / "parts", tmp_path / "parts")
    set_to("end", "moments", {})(tmp_path / "parts" / "shard-1-of-2.json.gz")
    result = invoke("merge", tmp_path / "parts")
    assert result.exit_code == 2, result.output
    assert "does not say what was known at 6 s" in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--shard", "2/2", "--report", "x"),
            "--shard: expected INDEX/COUNT with an index from 0, such as 0/5, got 2/2",
        ),
        (("--shard", "1", "--report", "x"), "got 1"),
        (("--shard", "-1/2", "--report", "x"), "got -1/2"),
        (("--shard", "0/4", "--report", "x"), "expected at most 3 shards, one for each unit, got 4"),
        (("--shard", "0/2"), "give --report FOLDER"),
        (("--shard", "0/2", "--report", "x", "--workers", "2"), "leave out --workers, --dask, --api"),
        (("--workers", "4"), "expected at most 3 shards, one for each unit, got 4"),
    ],
)
def test_wrong_shards_are_told(folder, words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("run", folder / "scenario.yaml", "--virtual", *words)
    assert result.exit_code == 2, result.output
    assert says in result.output.replace("\n", " ")
    assert not (tmp_path / "x").exists()


def test_an_empty_folder_has_no_parts(tmp_path):
    assert "no part of a run" in invoke("merge", tmp_path).output.replace("\n", " ")
    assert "no such file or folder" in invoke("merge", tmp_path / "x").output.replace("\n", " ")


def container(name):
    pod = yaml.safe_load((DEPLOY / name).read_text())["spec"]["template"]["spec"]
    return pod["containers"][0]


def test_the_kubernetes_job_runs_its_shards_and_merges_them(folder, tmp_path):
    """Its very words, with the pod's index and paths of this machine; in virtual time, since there is no gateway.test."""
    job, shard = yaml.safe_load((DEPLOY / "run.yaml").read_text())["spec"], container("run.yaml")
    environment = {each["name"]: each.get("value") for each in shard["env"]}
    assert int(environment["SHARDS"]) == job["completions"] == job["parallelism"]
    (tmp_path / "scenario.yaml").write_text(SCENARIO.replace("count: 3", "count: 5"))
    paths = {
        "/scenario/scenario.yaml": tmp_path / "scenario.yaml",
        "/parts": tmp_path / "parts",
        "/parts/report": tmp_path / "out",
    }

    def words(container, index):
        text = [*container["command"], *container["args"]]
        assert text.pop(0) == "bmsota-sim"
        if "--to" in text:
            text[text.index("--to") : text.index("--to") + 2] = ["--virtual"]
        for name, value in {**environment, "JOB_COMPLETION_INDEX": str(index)}.items():
            text = [word.replace(f"$({name})", str(value)) for word in text]
        return [paths.get(word, word) for word in text]

    for index in range(job["completions"]):
        result = invoke(*words(shard, index))
        assert result.exit_code == 0, result.output
    result = invoke(*words(container("merge.yaml"), 0))
    assert result.exit_code == 0, result.output
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["shards"]) == 5
