"""Every code block of the documentation runs, and prints what the page says but for figures."""

import contextlib
import re
import sys
from pathlib import Path

import jax
import pytest

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "docs"))

import blocks  # noqa: E402

PAGES = blocks.pages()


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the Python blocks of first-steps.md leave, which every page may use."""
    with contextlib.chdir(tmp_path_factory.mktemp("first")), usual():
        return blocks.first()


@contextlib.contextmanager
def usual():
    """JAX as readers have it: the tests' own strictness is not theirs."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def plain(text):
    """Words without figures: those depend on the machine."""
    words = re.sub(r"[-+]?\d[\d.,]*\*?", "#", text.replace("; * on cores that other work shared", ""))
    return [" ".join(line.split()) for line in words.splitlines() if line.strip(" ─")]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(blocks.DOCS)))
def test_a_page_runs(page, names, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks.prepare(tmp_path, cache)
    printed = {}
    with usual():
        for block, said in blocks.run(page, dict(names)):
            printed[block.span] = said
    for block in blocks.blocks(page):
        if block.language == "text" and block.reason is None:
            said = printed[max(span for span in printed if span < block.span)]
            assert plain(said) == plain(block.text)


def test_no_block_is_forgotten():
    """Each is run, is what one prints, or says why it is not run."""
    assert len(PAGES) > 15
    for page in PAGES:
        every = blocks.blocks(page)
        assert page.read_text().count("\n```") == 2 * len(every), f"{page}: a block that is not found"
        assert {block.language for block in every} <= {"python", "sh", "text"}, page
