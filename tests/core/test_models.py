from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.models import DEFAULT_PORTS, HOST, Endpoint, HiddenOrigin, Inbound, Origin, Preview, Rejected
from preview_proxy.core.secret import Secret

CANARY = "canary-0123456789"

labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)


@pytest.mark.parametrize("machine", ["m", "0", "mch_a1b2", "Box.7", "a" * 128, "a--b", "a_.-b", "ab", "aBc", "aB"])
def test_a_machine_id_of_a_provider_is_taken(machine: str) -> None:
    assert Preview(machine, 1).key == f"{machine}:1:0"


@pytest.mark.parametrize(
    "machine", ["", "-a", "a-", ".", "..", "_a", "a_", "a b", "a/b", "a:b", "a\n", "é", "a%2fb", "a@b", "a" * 129]
)
def test_a_machine_id_that_could_be_read_as_something_else_is_refused(machine: str) -> None:
    with pytest.raises(ValueError, match="machine must be 1 to 128 letters"):
        Preview(machine, 3000)


@pytest.mark.parametrize("port", [1, 22, 3000, 65535])
def test_p19_a_port_is_an_integer_in_range(port: int) -> None:
    assert Preview("m", port).port == port


@pytest.mark.parametrize("port", [0, -1, 65536, 65558, "3000", "022", "+22", 3000.0, True, None])
def test_p19_anything_else_is_no_port(port: Any) -> None:
    with pytest.raises(ValueError, match="port must be an integer from 1 to 65535"):
        Preview("m", port)


def test_previews_are_values_and_each_field_tells_them_apart() -> None:
    one = Preview("m", 3000)
    assert one == Preview("m", 3000, 0)
    assert len({one.key, Preview("m", 3001).key, Preview("n", 3000).key, Preview("m", 3000, 1).key}) == 4
    with pytest.raises(FrozenInstanceError):
        one.port = 3001  # type: ignore[misc]


@pytest.mark.parametrize(
    "host", ["a", "localhost", "3000-mch_a1.preview.dev", "_dmarc.x", "127.0.0.1", "a" * 63, ".".join(["a" * 62] * 4)]
)
def test_p01_a_host_name_matches(host: str) -> None:
    assert HOST.match(host)


@pytest.mark.parametrize(
    "host",
    ["", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "A", "a b", "a/b", "a@b", "a%b", "a:1", "[::1]", "a\n", "é"]
    + ["a" * 64, ".".join(["a" * 63] * 4)],
)
def test_p01_anything_else_is_no_host_name(host: str) -> None:
    assert not HOST.match(host)


@given(st.sampled_from(sorted(DEFAULT_PORTS)), hosts, st.integers(1, 65535))
def test_an_origin_reads_its_own_text(scheme: str, host: str, port: int) -> None:
    origin = Origin(scheme, host, port)
    assert Origin.parse(str(origin)) == origin
    assert str(origin) == f"{scheme}://{origin.authority}"


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.acme.com", Origin("https", "app.acme.com", 443)),
        ("HTTPS://App.Acme.COM", Origin("https", "app.acme.com", 443)),
        ("https://app.acme.com:443", Origin("https", "app.acme.com", 443)),
        ("https://app.acme.com:8443", Origin("https", "app.acme.com", 8443)),
        ("http://localhost", Origin("http", "localhost", 80)),
        ("wss://x.dev", Origin("wss", "x.dev", 443)),
    ],
)
def test_an_origin_is_scheme_host_and_port(text: str, origin: Origin) -> None:
    assert Origin.parse(text) == origin


@pytest.mark.parametrize(
    "text",
    ["", "null", "*", "app.acme.com", "//app.acme.com", "https:", "https://", "https:///", "https:app.acme.com"]
    + ["ftp://acme.com", "file:///etc/passwd", "https://acme.com/", "https://acme.com?", "https://acme.com#"]
    + ["https://acme.com/x", "https://user@acme.com", "https://user:pass@acme.com", "https://acme.com:"]
    + ["https://acme.com:0", "https://acme.com:0443", "https://acme.com:65536", "https://acme.com:-1"]
    + ["https://acme.com:x", "https://acme.com:٤٤٣", "https://[::1]", "https://[", "https://acme.com."]
    + [" https://acme.com", "https://acme.com ", "https://ac\tme.com", "https://acme.com\n", "https://*.acme.com"]
    + ["https://acme.com, https://b.com", "https://é.com", "https://\u212aube.com", "https://acme\uff0ecom"]
    + ["https://\ud800.com"],
)
def test_more_or_less_than_an_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin such as"):
        Origin.parse(text)


@given(st.text())
def test_nothing_but_an_ascii_origin_is_ever_read_as_one(text: str) -> None:
    try:
        origin = Origin.parse(text)
    except ValueError:
        return
    assert text.isascii()
    assert HOST.match(origin.host)


LABEL = "a" + "-" * 61 + "z"  # as long as one may be (RFC 1035 §2.3.4)


@pytest.mark.parametrize(
    "host", ["a", "_", "0", "a_", "_a.b_", "ab", "a.b", LABEL, f"{LABEL}.{LABEL}.{LABEL}.{LABEL[:60]}z", "xn--a.0-0"]
)
def test_p01_a_host_is_labels_of_letters_digits_dashes_and_underscores(host: str) -> None:
    assert HOST.match(host)
    assert len(host) <= 253


@pytest.mark.parametrize(
    "host",
    ["", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a.b-", "A", "a.B", "a b", "a\n", "\u0430", "*.a", LABEL + "z"]
    + ["a." + LABEL + "z", f"{LABEL}.{LABEL}.{LABEL}.{LABEL[:61]}z"],
)
def test_p01_no_other_text_is_a_host(host: str) -> None:
    assert not HOST.match(host)


def test_schemes_have_the_ports_of_their_rfcs() -> None:
    assert DEFAULT_PORTS == {"http": 80, "https": 443, "ws": 80, "wss": 443}


@pytest.mark.parametrize(
    ("origin", "authority"),
    [(Origin("https", "a.dev", 443), "a.dev"), (Origin("https", "a.dev", 80), "a.dev:80")],
)
def test_an_authority_leaves_a_default_port_out(origin: Origin, authority: str) -> None:
    assert origin.authority == authority
    assert origin.field == authority.encode()
    assert str(origin) == f"https://{authority}"


def test_h13_an_endpoint_needs_no_more_than_an_origin_and_names_its_credentials_in_lower_case() -> None:
    plain = Endpoint(Origin("https", "up.dev", 443))
    assert (plain.base_path, plain.marker, plain.credentials, plain.credential_names) == (b"", b"", (), frozenset())
    endpoint = Endpoint(plain.origin, credentials=((b"X-Token", Secret(CANARY)), (b"x-other", Secret(CANARY))))
    assert endpoint.credential_names == {b"x-token", b"x-other"}


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "3000-m.preview.localhost", "127.0.0.1", "127.1.2.3"])
def test_a_loopback_name_can_only_mean_this_computer(host: str) -> None:
    assert Origin("http", host, 80).is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "acme.com",
        "127.0.0.1000",
        "localhost.acme.com",
        "notlocalhost",
        "127.evil.com",
        "127.0.0.1.evil.com",
        "127.0.0",
        "127.0.0.1.2",
    ]
    + ["1127.0.0.1", "10.0.0.1", "0.0.0.0"],
)
def test_h16_a_name_that_dns_may_point_anywhere_is_not_loopback(host: str) -> None:
    assert not Origin("http", host, 80).is_loopback


def test_h14_an_endpoint_does_not_show_its_credentials_and_recognises_them() -> None:
    endpoint = Endpoint(Origin("https", "up.dev", 443), credentials=((b"x-token", Secret(CANARY)),))
    assert "token" not in repr(endpoint)
    assert CANARY not in repr(endpoint)
    assert endpoint.leaks(f"echo: {CANARY}".encode())
    assert not endpoint.leaks(b"echo")
    assert not Endpoint(endpoint.origin).leaks(CANARY.encode())


def test_h14_a_hidden_origin_shows_no_host_and_its_endpoint_recognises_the_secret_in_it() -> None:
    host = f"3000-{CANARY}.up.dev"
    origin = HiddenOrigin("https", host, 8443, Secret(CANARY))
    endpoint = Endpoint(origin, credentials=((b"host", Secret(origin.field)),))
    for shown in (origin, endpoint, [origin], {"origin": origin}):
        assert CANARY not in repr(shown) + str(shown)
    assert str(origin) == "https://hidden.invalid"
    assert endpoint.leaks(f"https://5173-{CANARY}.up.dev/".encode())
    assert endpoint.leaks(CANARY.upper().encode())
    assert not endpoint.leaks(b"https://3000-m1.previews.dev/")
    assert origin == HiddenOrigin("https", host, 8443, Secret("another-0123"))
    assert origin != HiddenOrigin("https", host, 443, Secret(CANARY))


def test_h14_a_hidden_origin_needs_its_host_among_the_credentials() -> None:
    with pytest.raises(ValueError, match="needs its Host among the credentials"):
        Endpoint(HiddenOrigin("https", f"{CANARY}.up.dev", 443, Secret(CANARY)))


def test_h13_instructions_and_credentials_are_ours_alone_to_send() -> None:
    origin = Origin("https", "up.dev", 443)
    endpoint = Endpoint(origin, credentials=((b"X-Token", Secret(CANARY)),), instructions=((b"x-edge-cors", b"off"),))
    assert endpoint.credential_names == {b"x-token", b"x-edge-cors"}


@pytest.mark.parametrize("host", ["up.dev", "10.0.0.1", "127.0.0.1.nip.io"])
def test_h16_no_endpoint_is_plain_http_on_another_computer(host: str) -> None:
    with pytest.raises(ValueError, match="must be https"):
        Endpoint(Origin("http", host, 80))
    assert Endpoint(Origin("https", host, 443))


@pytest.mark.parametrize("names", [(b"x-token", b"x-token"), (b"x-token", b"X-Token")])
def test_h13_a_credential_header_is_there_once(names: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="given twice"):
        Endpoint(Origin("https", "up.dev", 443), credentials=tuple((name, Secret(CANARY)) for name in names))


def test_p17_endpoints_with_other_credentials_have_another_scope() -> None:
    origin = Origin("https", "up.dev", 443)
    held = [(), (CANARY,), (CANARY + "x",), (CANARY + "y",)]
    scopes = {
        Endpoint(origin, credentials=tuple((b"x-token", Secret(value)) for value in values)).scope for values in held
    }
    assert len({*scopes, Endpoint(origin, credentials=((b"x-other", Secret(CANARY)),)).scope}) == len(held) + 1
    same = [Endpoint(origin, base, credentials=((b"x-token", Secret(CANARY)),)).scope for base in (b"", b"/base")]
    assert same[0] == same[1]
    assert CANARY.encode() not in same[0]


def test_p17_where_the_origin_ends_and_a_name_begins_is_part_of_the_scope() -> None:
    one = Endpoint(Origin("https", "up.de", 443), credentials=((b"vx", Secret(CANARY)),))
    other = Endpoint(Origin("https", "up.dev", 443), credentials=((b"x", Secret(CANARY)),))
    assert one.scope != other.scope != Endpoint(Origin("https", "up.de", 443), credentials=other.credentials).scope


def test_h16_plain_http_is_for_this_computer() -> None:
    for host in ("127.0.0.1", "localhost", "m1.localhost"):
        assert Endpoint(Origin("http", host, 80)).origin.host == host


def test_a_preview_is_shown_and_copied_as_its_three_fields() -> None:
    preview = Preview("mch_1", 3000, 2)
    assert repr(preview) == "Preview(machine='mch_1', port=3000, generation=2)"
    assert pickle.loads(pickle.dumps(preview)) == preview != Preview("mch_1", 3000)


def test_a_request_gives_every_value_of_a_field_in_order() -> None:
    headers = ((b"accept", b"a"), (b"cookie", b"1"), (b"accept", b"b"))
    inbound = Inbound("http", "GET", "https", "1.1", "a.dev", b"/", b"", headers, None, False, None)
    assert inbound.values(b"accept") == [b"a", b"b"]
    assert inbound.values(b"Accept") == []


@pytest.mark.parametrize(
    ("rejected", "text"), [(Rejected("bad_host"), "bad_host"), (Rejected("bad_host", "none"), "bad_host: none")]
)
def test_a_rejection_reads_as_its_code_and_detail(rejected: Rejected, text: str) -> None:
    assert str(rejected) == text
    assert rejected.code == "bad_host"
    assert rejected.detail in ("", "none") and rejected.detail in text


def test_v13_the_ports_of_a_machine_do_not_collide() -> None:
    previews = [Preview("m1", port, generation) for port in range(1, 2001) for generation in (0, 1)]
    assert len({hash(preview) for preview in previews}) == len(previews)
