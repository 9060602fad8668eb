"""Pointers of and to the documentation: citations in docstrings, names of functions, settings, links."""

import importlib
import re
from operator import attrgetter
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch.nn.functional import avg_pool2d

from ttilib.episodes.clips import synthetic_clip
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.losses import TERMS
from ttilib.solver.methods import METHODS, read_method

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted(path for folder in ("", "docs", "lists") for path in (REPOSITORY / folder).glob("*.md"))
SOURCES = sorted(path for folder in ("ttilib", "tests", "perf") for path in (REPOSITORY / folder).rglob("*.py"))
NAMED = [REPOSITORY / "docs" / f"{name}.md" for name in ("method", "differences", "protocol")]
POINTER = r"\d(?:\.\d)?|[QSC]\d+"
CITATION = re.compile(rf"docs/(\w+)\.md((?:,? (?:and |to )?(?:{POINTER})(?![\w.]*\w))*)")


def prose(page):
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def marks(page):
    """What a citation may point to: numbers of headings and rows of tables."""
    return set(re.findall(r"^(?:#+ |\| )(\d(?:\.\d)?|[QSC]\d+)(?= )", page.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_citations_point_to_headings_and_rows(path):
    text = re.sub(r"\n\s*(?:# )?", " ", path.read_text())  # a citation may be wrapped
    assert not re.search(r"[Pp]rotocol,?[ ](?:sections?[ ])?\d|[Qq]uirks?[ ]Q?\d", text), "cite docs/protocol.md"
    for name, pointers in CITATION.findall(text):
        page = REPOSITORY / "docs" / f"{name}.md"
        assert page.is_file() and set(re.findall(POINTER, pointers)) <= marks(page), (name, pointers)
    if path.is_relative_to(REPOSITORY / "ttilib"):  # further numbers after words, as in "5.1 (schedule), S4"
        assert set(re.findall(r"\b[QS]\d+\b", path.read_text())) <= marks(NAMED[2])


def test_the_protocol_has_every_number_once():
    found = re.findall(r"^\| ([QSC]\d+) \|", NAMED[2].read_text(), re.MULTILINE)
    assert found == [f"{letter}{n + 1}" for letter, count in (("Q", 35), ("C", 8), ("S", 34)) for n in range(count)]


@pytest.mark.parametrize("page", NAMED, ids=lambda page: page.stem)
def test_functions_and_settings_exist(page):
    text = prose(page)
    for module, name in re.findall(r"`(?:ttilib\.)?([a-z_]+(?:\.[a-z_]+)*):([A-Za-z_.]+)`", text):
        attrgetter(name)(importlib.import_module(f"ttilib.{module}"))
    for method in re.findall(r'[`"]([\w+-]+(?: \w+=[^\s`"]+)+)[`"]', text):
        read_method(method)
    for name in re.findall(r"`(test_\w+\.py)` \|$", text, re.MULTILINE):  # the last column of the differences
        assert (REPOSITORY / "tests" / name).is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    for path, anchor in re.findall(r"\]\((?!\w+:)([^)\s#]*)#?([^)\s]*)\)", prose(page)):
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and (not anchor or anchor in anchors(target)), (path, anchor)


def test_the_examples_of_a_term_and_an_algorithm_are_methods():
    with patch.dict(TERMS), patch.dict(METHODS):
        for code in re.findall(r"```python\n(.+?)```", NAMED[0].read_text(), re.DOTALL):
            exec(code, {"__name__": __name__})
        assert read_method("TTI added_terms=rough added_weights=2").config.added == {"rough": 2.0}
        clip, extractor = synthetic_clip(frames=2), FeatureExtractor(lambda images: avg_pool2d(images, 8))
        masks = read_method("threshold level=0.3").predict(clip, extractor).masks
        assert torch.equal(masks, clip.query.mean(dim=1) > 0.3)
