"""Scenario files that cannot run (some are no text, so none is called .yaml): each problem is told with its place, what was expected and what came."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from bmsota_sim.run.check import check
from bmsota_sim.run.scenario import packaged_names, packaged_text
from long_run import LONG, seeds

from bmsota.errors import ConfigurationError

BROKEN = Path(__file__).parent / "broken"
FILES = sorted(BROKEN.glob("*.scenario"))
WORDS = (
    b"{", b"}", b"[", b"]", b":", b",", b"-", b"\n", b"\n  ", b"&a ", b"*a", b"!!int ", b"|", b">", b"'", b'"', b"\t", b"%", b"#", b"?", b"<<: ",
    b"1e999", b"-1", b"0", b"9" * 5000, b"null", b"true", b"all", b"80%", b"cars/1-9", b"those of blackout", b"1min after end", b"\\U0011FFFF",
    b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x00", "\u2028".encode(), "\u0663".encode(), b"do", b"who", b"for", b"is", b"by", b"slave", b"[0]", b"%YAML 1.1\n---\n",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_message_names_place_and_reason(file):
    """The whole message is beside the file, word for word."""
    with pytest.raises(ConfigurationError) as caught:
        check(file.read_bytes(), f"{file.stem}.yaml", 1)
    assert str(caught.value) + "\n" == file.with_suffix(".txt").read_text(encoding="utf-8")


def test_every_problem_has_a_place_inside_the_file():
    """Line and column lead to a character of the file, or to the end of a line."""
    assert len(FILES) >= 27
    for file in FILES:
        lines = file.read_bytes().decode("utf-8", "replace").split("\n")
        for told in file.with_suffix(".txt").read_text(encoding="utf-8").splitlines():
            name, line, column, _ = told.split(":", 3)
            assert name == f"{file.stem}.yaml"
            if file.stem not in {"utf16", "latin1", "binary"}:
                assert 1 <= int(column) <= len(lines[int(line) - 1]) + 1, told


def damaged(data: bytes, generator: random.Random) -> bytes:
    """*data* with one to four places changed: cut, repeated, or with another word in it."""
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data) + 1)
        end = min(len(data), at + generator.choice((0, 1, 1, 2, 5, 20)))
        middle = generator.choice((*WORDS, data[at : at + 12] * 2, bytes([generator.randrange(256)])))
        data = data[:at] + middle + data[end:]
    return data


def refusal(data: bytes, seed: int) -> str:
    """Why *data* cannot run; empty: it can."""
    try:
        check(data, "fuzz.yaml", seed)
    except ConfigurationError as error:
        return str(error)
    return ""


@pytest.mark.long
@pytest.mark.parametrize("seed", seeds(), ids="seed{}".format)
def test_no_bytes_end_in_anything_but_a_scenario_or_a_message(seed):
    """Damaged ready scenarios and broken files: read whole, or refused with places; never another exception."""
    generator = random.Random(seed)
    samples = [packaged_text(name).encode() for name in packaged_names()]
    samples += [file.read_bytes() for file in FILES]
    refused = 0
    for _ in range(5_000 if LONG else 400):
        message = refusal(damaged(generator.choice(samples), generator), seed)
        refused += bool(message)
        assert all(line.startswith("fuzz.yaml:") for line in message.splitlines()), message
        message.encode()
    assert refused > 100


def test_random_bytes_are_refused():
    """Not even nearly a scenario."""
    generator = random.Random(7)
    for _ in range(300):
        with pytest.raises(ConfigurationError):
            check(generator.randbytes(generator.randrange(200)), "noise.yaml", 1)


def test_at_most_twenty_problems_are_listed():
    """The rest is counted."""
    entries = "".join(f"  - {{ at: 1s, do: nothing{number} }}\n" for number in range(30))
    with pytest.raises(ConfigurationError) as caught:
        check(
            b"name: x\nduration: 9\ngroups: { a: { profile: F7, count: 1 } }\ntimeline:\n" + entries.encode(),
            "x.yaml",
            1,
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "x.yaml: 10 more problems are not listed"


def test_a_file_that_is_too_large_is_not_parsed():
    """Parsing a megabyte takes seconds."""
    with pytest.raises(ConfigurationError, match=r"big.yaml: expected at most 1,048,576 bytes, got 2,000,000"):
        check(b"#" * 2_000_000, "big.yaml", 1)
