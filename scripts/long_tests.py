"""Run the tests marked `long` at their larger counts: resumable, in ranges of seeds whose results can be summed.

    python scripts/long_tests.py                      seeds 0 to 3, two tests at a time; continues where it was stopped
    python scripts/long_tests.py --seeds 4:12         other seeds, on another machine perhaps
    python scripts/long_tests.py --sum a.json b.json  what several runs of one commit have covered together

Every test is a process of its own, and its result is kept in the state file as soon as it ends. A result counts for the
commit that it was made with; at another commit everything runs again, and in a tree with changes that are not committed
everything runs each time. A test that failed runs again too. The line printed for a failure replays it. Exit code 0 if all passed, 1 if one failed, 130 if it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".long" / "state.json"
CHANGED = "+changes"
SEED = re.compile(r"\bseed(\d+)\b")
FUZZ_RUNS = 50_000


def commit() -> str:
    """The commit, and whether the tree differs from it: results of a changed tree count for no commit."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    return head.stdout.strip() + (CHANGED if changed.stdout.strip() else "")


def environment(seeds: str) -> dict[str, str]:
    return os.environ | {"BMSOTA_LONG": "1", "BMSOTA_LONG_SEEDS": seeds}


def tests(seeds: str) -> list[str]:
    """The node ids of the tests marked `long`, with one for each seed where a test draws."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "long"],
        cwd=ROOT, env=environment(seeds), capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line for line in listed.stdout.splitlines() if "::" in line]
    if listed.returncode or not found:
        raise SystemExit(f"no tests collected:\n{listed.stdout}{listed.stderr}")
    return found


def commands(seeds: str) -> dict[str, list[str]]:
    """What is run, by name; the fuzzer is one command for each seed."""
    found = {name: [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name] for name in tests(seeds)}
    first, _, end = seeds.partition(":")
    fuzzer = "tests/fuzz/fuzz_gbt32960.py"
    for seed in range(int(first), int(end)):
        options = [f"-seed={seed + 1}", f"-runs={FUZZ_RUNS}", "-max_len=512"]  # libFuzzer takes seed 0 for "draw one".
        found[f"{fuzzer}[seed{seed}]"] = [sys.executable, fuzzer, *options]
    return found


def run(command: list[str], seeds: str) -> tuple[bool, float, str]:
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment(seeds), capture_output=True, text=True, check=False)
    return done.returncode == 0, time.monotonic() - began, done.stdout[-4000:] + done.stderr[-4000:]


def load(path: Path) -> dict[str, dict[str, object]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(state: dict[str, dict[str, object]]) -> None:
    STATE.parent.mkdir(exist_ok=True)
    new = STATE.with_suffix(".new")
    new.write_text(json.dumps(state, indent=1, sort_keys=True), encoding="utf-8")
    new.replace(STATE)


def merge(states: Iterable[dict[str, dict[str, object]]]) -> list[dict[str, dict[str, object]]]:
    """One state for each commit. A test that several runs have made has failed if it failed in one of them."""
    merged: dict[str, dict[str, dict[str, object]]] = {}
    for state in states:
        for name, row in state.items():
            rows = merged.setdefault(str(row["commit"]), {})
            if name not in rows or rows[name]["passed"]:
                rows[name] = row
    return [merged[of] for of in sorted(merged)]


def summary(state: dict[str, dict[str, object]], of: str) -> str:
    mine = {name: row for name, row in state.items() if row["commit"] == of}
    seeds = {match[1] for name in mine if (match := SEED.search(name))}
    failed = sorted(name for name, row in mine.items() if not row["passed"])
    seconds = sum(float(str(row["seconds"])) for row in mine.values())
    lines = [f"commit {of[:12]}: {len(mine)} tests, {len(seeds)} seeds, {seconds:.0f} s of work, {len(failed)} failed"]
    return "\n".join(lines + [f"  failed: {name}" for name in failed])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="0:4", metavar="A:B", help="seeds A to B - 1 (default 0:4)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="tests at a time (default 2)")
    parser.add_argument("--sum", nargs="+", type=Path, metavar="FILE", help="sum state files, run nothing")
    options = parser.parse_args()
    if options.sum:
        merged = merge(map(load, options.sum))
        for rows in merged:
            print(summary(rows, str(next(iter(rows.values()))["commit"])))
        return 0 if all(row["passed"] for rows in merged for row in rows.values()) else 1
    state, of = load(STATE), commit()
    wanted = commands(options.seeds)
    passed_before = {name for name, row in state.items() if row["commit"] == of and row["passed"]}
    left = [name for name in wanted if of.endswith(CHANGED) or name not in passed_before]
    print(f"{len(wanted)} tests, {len(wanted) - len(left)} passed before at this commit", flush=True)
    with ThreadPoolExecutor(options.workers) as pool:
        futures = {pool.submit(run, wanted[name], options.seeds): name for name in left}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                name = futures[future]
                passed, seconds, output = future.result()
                state[name] = {"commit": of, "passed": passed, "seconds": round(seconds, 1)}
                save(state)
                print(f"[{number}/{len(left)}] {'ok' if passed else 'FAILED'} {seconds:6.1f} s  {name}", flush=True)
                if not passed:
                    replay = " ".join(wanted[name][1:])
                    print(
                        f"{output}\nreplay: BMSOTA_LONG=1 BMSOTA_LONG_SEEDS={options.seeds} python {replay}", flush=True
                    )
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            print("stopped; run it again to continue")
            return 130
    print(summary({name: state[name] for name in wanted}, of))
    return 0 if all(state[name]["passed"] for name in wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
