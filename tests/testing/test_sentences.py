from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from trio_beat.backends import Backend, Receiver
from trio_beat.testing.sentences import Sentence

CONTRACT = " ".join(
    " ".join((inspect.getdoc(part) or "").split())
    for cls in (Backend, Receiver)
    for part in (cls, *vars(cls).values())
    if part is cls or inspect.isfunction(part) or isinstance(part, classmethod)
)
#: The sentences that the tests beside this one find broken.
BROKEN = {
    node.attr
    for path in Path(__file__).parent.glob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Sentence"
}


@pytest.mark.parametrize("sentence", Sentence)
def test_every_sentence_is_one_of_the_contract(sentence: Sentence) -> None:
    assert sentence in CONTRACT


@pytest.mark.parametrize("sentence", Sentence)
def test_every_sentence_is_broken_by_a_test(sentence: Sentence) -> None:
    assert sentence.name in BROKEN
