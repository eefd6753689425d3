"""Every requirement has its test."""

from __future__ import annotations

from tests.requirements import LEFT, PAGE, named_tests, names_of_tests, page, requirements

TESTS = named_tests()
ROWS = requirements()


def test_t01_every_must_has_a_test() -> None:
    assert [row.id for row in ROWS if row.level == "MUST" and not TESTS.get(row.id)] == []


def test_t01_a_should_without_a_test_has_a_reason() -> None:
    assert {row.id for row in ROWS if row.level == "SHOULD" and not TESTS.get(row.id)} == set(LEFT)


def test_t01_no_test_is_named_after_an_unknown_requirement() -> None:
    assert set(TESTS) - {row.id for row in ROWS} == set()


def test_t01_each_id_has_one_row() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert {row.level for row in ROWS} == {"MUST", "SHOULD"}


def test_t01_the_page_names_the_tests_there_are() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `python -m tests.requirements`"


def test_a_test_is_found_by_its_name_alone() -> None:
    source = "def test_h17_a(): ...\nasync def test_b(): ...\ndef other(): ...\nclass C:\n    def test_in(self): ...\n"
    assert names_of_tests(source) == ["test_h17_a", "test_b"]
