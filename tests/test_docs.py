"""Every Python example in the README and the docs runs and gives what it says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#]+)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_examples_do_what_they_say(page):
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        examples = doctest.DocTestParser().get_doctest(block, {}, relative(page), str(page), 0)
        assert examples.examples, f"an example without a prompt cannot be checked:\n{block}"
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        output: list[str] = []
        runner.run(examples, out=output.append)
        assert runner.summarize(verbose=False).failed == 0, "".join(output)


def test_there_is_an_example_in_the_readme():
    assert BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{relative(page)} links to {target}"


def test_the_makefile_knows_what_the_readme_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for verb in re.findall(r"\$ make ([a-z-]+)", readme):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb
