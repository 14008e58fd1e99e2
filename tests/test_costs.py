"""Which tests are dear enough to be left out of `make check`."""

from pathlib import Path

from costs import dear_of, is_dear

ROOT = Path(__file__).parents[1]


def test_a_file_is_dear_on_average_and_else_a_test_on_average_of_its_cases():
    costs = {
        "tests/a.py::test_one[x]": 0.3,
        "tests/a.py::test_two": 0.1,
        "tests/b.py::test_one[x]": 0.3,
        "tests/b.py::test_one[y]": 0.1,
        "tests/b.py::test_two[x]": 0.3,
        "tests/b.py::test_two[y]": 0.0,
        **{f"tests/b.py::test_three[{number}]": 0.0 for number in range(9)},
    }
    dear = dear_of(costs, 0.2)
    assert dear == ["tests/a.py", "tests/b.py::test_one"]
    left = [name for name in costs if not is_dear(name, frozenset(dear))]
    assert len(left) == 11


def test_every_dear_test_is_there():
    """A name that was changed would be run by `make check` again, unnoticed."""
    rigs = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "rigs").glob("*.py"))
    for line in (ROOT / "tests" / "rigs" / "dear.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        file, _, name = line.partition("::")
        assert (ROOT / file).exists(), line
        # A test of a class may stand in the contract that the class is made from.
        text = (ROOT / file).read_text(encoding="utf-8") + (rigs if "::" in name else "")
        assert not name or f"def {name.rpartition('::')[2]}(" in text, line
