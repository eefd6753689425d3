"""Names in certificates."""

from __future__ import annotations

import pytest

from preview_proxy.core.certificates import certificate_matches


@pytest.mark.parametrize(
    ("host", "name", "matches"),
    [
        ("3000-mch_1.nullspace.dev", "*.nullspace.dev", True),
        ("3000-mch_1.nullspace.dev", "*.NULLSPACE.dev", True),
        ("3000-mch_1.nullspace.dev", "3000-mch_1.nullspace.dev", True),
        ("3000-mch_1.nullspace.dev", "*.dev", False),
        ("3000-mch_1.nullspace.dev", "*", False),
        ("3000-mch_1.nullspace.dev", "3000-*.nullspace.dev", False),
        ("3000-mch_1.nullspace.dev", "nullspace.dev", False),
        ("3000-mch_1.nullspace.dev", "*.nullspace.dev.evil.example", False),
        ("a.b_c.nullspace.dev", "*.nullspace.dev", False),
        ("mch_1.dev", "*.dev", False),
        (".nullspace.dev", "*.nullspace.dev", False),
    ],
)
def test_h16_a_wildcard_is_one_whole_label(host: str, name: str, matches: bool) -> None:
    assert certificate_matches(host, {"subjectAltName": (("DNS", name),)}) is matches


def test_only_dns_names_count() -> None:
    assert not certificate_matches("a_b.example.com", None)
    assert not certificate_matches("a_b.example.com", {"subject": ((("commonName", "a_b.example.com"),),)})
    assert not certificate_matches("a_b.example.com", {"subjectAltName": (("URI", "a_b.example.com"),)})
