"""The Python examples in the README and the docs run and give what they say; links lead somewhere."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:python|pycon)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#]+)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_examples_do_what_they_say(page):
    """The examples with prompts of one page, one after another, as a reader would type them."""
    session = "\n".join(block for block in blocks(page) if ">>>" in block)
    examples = doctest.DocTestParser().get_doctest(session, {}, relative(page), str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    output: list[str] = []
    runner.run(examples, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_examples_that_need_hardware_at_least_name_what_there_is(page):
    """Examples without prompts need a bus or an adapter: they are valid Python, and what they import exists."""
    for block in blocks(page):
        if ">>>" not in block:
            tree = ast.parse(block)
            imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(body=imports, type_ignores=[]), str(page), "exec"), {})


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


def test_every_page_has_its_place_in_the_order_of_reading():
    """A page that no list names is found by nobody."""
    order = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").glob("*.md")):
        if page.name != "README.md":
            assert f"]({page.name})" in order, page.name
            assert f"- {page.name}\n" in navigation, page.name
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        assert f"- api/{page.name}\n" in navigation, page.name


def test_every_public_package_of_the_library_has_a_reference():
    for package in sorted((ROOT / "bmsota").glob("*/__init__.py")):
        if (name := package.parent.name) not in {"cli", "adapters"}:
            assert f"::: bmsota.{name}\n" in (ROOT / "docs" / "api" / f"{name}.md").read_text(encoding="utf-8")
