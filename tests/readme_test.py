import re
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import unlearnjax
from configs import unlearn as config_lib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Fragments, which do not run, stand behind `<!--- skip: next -->`.
SNIPPETS = Sybil([PythonCodeBlockParser(), SkipParser()])


def run(page):
    """Runs a page's blocks of Python, one after another; what they leave behind."""
    document = SNIPPETS.parse(page)
    for example in document.examples():
        example.evaluate()
    return document.namespace


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page):
    run(page)


def test_the_python_of_the_readme_runs_and_forgets():
    assert run(PAGES[0])["accuracy"] < 0.05


def test_every_method_of_the_default_config_is_in_the_table():
    table = (ROOT / "docs" / "methods.md").read_text()
    for name in config_lib.METHODS:
        assert f"| `{name}` |" in table


def test_it_is_a_door_and_not_the_house():
    assert len(README.splitlines()) <= 130


def test_files_that_the_readme_links_to_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_version_is_one():
    setup = (ROOT / "setup.cfg").read_text()
    assert f"version = {unlearnjax.__version__}\n" in setup
    assert f"version: {unlearnjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
