"""The page of a sweep's keys."""

from orchestrator.docs import PAGE, text


def test_the_page_is_the_one_that_the_code_writes():
    assert PAGE.read_text(encoding="utf-8") == text(), "write it again: make docs"


def test_what_may_be_a_word_or_a_number_says_both():
    assert "| one of auto or >= 1 and <= 64 or null | `null` |" in text()
