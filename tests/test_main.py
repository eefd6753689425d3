"""The command line."""

from __future__ import annotations

import runpy
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from preview_proxy.__main__ import BESIDES, USAGE, main, too_old

VERSIONS = {"a-b": "1.2.3", "old": "0.9", "exact": "2.0.0", "short": "3", "new": "4.1", "pre": "5.0rc1"}


def version_of(name: str) -> str:
    if name not in VERSIONS:
        raise metadata.PackageNotFoundError(name)
    return VERSIONS[name]


@pytest.mark.parametrize(
    "requirement",
    ["a-b>=1.2.3", "a-b>=1.2", "a-b>=0.9.9,<2", "a-b[x]>=1.2", "exact>=2", "short>=3.0.0", "absent>=9", "a-b", "pre>=5"]
    + ['a-b>=1; extra == "x"', "new>=4,<4.2"],
)
def test_p31_a_package_within_its_bounds_is_not_named(requirement: str) -> None:
    assert list(too_old([requirement], version_of)) == []


@pytest.mark.parametrize(
    ("requirement", "line"),
    [
        ("old>=1.0", "old 0.9 is installed, and must be >=1.0"),
        ("a-b>=1.10", "a-b 1.2.3 is installed, and must be >=1.10"),
        ('old[x]>=0.10; extra == "x"', "old 0.9 is installed, and must be >=0.10"),
        ("new>=3,<4", "new 4.1 is installed, and must be <4"),
        ("exact>=2.0.0.1", "exact 2.0.0 is installed, and must be >=2.0.0.1"),
    ],
)
def test_p31_one_outside_is(requirement: str, line: str) -> None:
    assert list(too_old([requirement, requirement], version_of)) == [line]


def test_p31_every_requirement_is_one_that_the_doctor_reads() -> None:
    for line in [*(metadata.requires("preview-proxy") or ()), *BESIDES]:
        assert {specifier.operator for specifier in Requirement(line).specifier} <= {">=", "<"}
        assert all(Version(specifier.version).release for specifier in Requirement(line).specifier)


def test_p31_the_doctor_finds_this_environment_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == "Every package and server that is installed is new enough.\n"


def test_p31_the_doctor_fails_where_something_is_too_old(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "0.1")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "starlette 0.1 is installed, and must be >=1.3" in lines
    assert "uvicorn 0.1 is installed, and must be >=0.54" in lines
    assert "granian 0.1 is installed, and must be >=2.8" in lines


@pytest.mark.parametrize("arguments", [[], ["cure"], ["doctor", "now"]])
def test_anything_else_is_told_how(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["preview-proxy", *arguments])
    monkeypatch.delitem(sys.modules, "preview_proxy.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("preview_proxy", run_name="__main__")  # what `python -m preview_proxy` does
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", USAGE)
