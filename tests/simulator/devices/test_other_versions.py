"""A unit whose records are of another version, or damaged: it boots, says so, and is upgraded again."""

from __future__ import annotations

import cbor2
import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("trust", {"layout": 2}, "the trust state was reset: malformed-document: trust state"),
        ("upgrade", {"layout": 2}, "upgrade journal: layout 2 is newer than this version reads (1)"),
        ("upgrade", ["accepted", "http://x", "", "", -1], "upgrade journal: damaged"),
        ("field-upgrades", {"layout": 4}, "record of local upgrades: layout 4 is newer than this version reads (3)"),
        ("report-counter", {"layout": 2}, "report counter: layout 2 is newer than this version reads (1)"),
    ],
)
def test_a_unit_says_which_record_it_cannot_read_and_is_upgraded_again(unit_bench, name, value, said):
    bench = unit_bench.Bench()
    bench.settle()
    bench.run(30)
    bench.unit.master._powered.master._store.put_record(name, cbor2.dumps(value, canonical=True))
    bench.unit.switch_off(lambda: None)
    bench.run(30)
    bench.unit.switch_on()
    bench.settle()
    report = bench.upgrade(unit_bench.release("2.1.0", 2))
    assert report.outcome.value == "succeeded", bench.story()
    assert bench.versions() == ("2.1.0",) * 3
    assert any(said in note.what for note in bench.trace.notes)
