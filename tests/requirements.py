"""The security requirements and the tests that show each; `python -m tests.requirements` writes `requirements.md`.

A test belongs to a requirement by its name: `test_h17_...` shows H-17, `test_p01_p04_...` both. Letters: H credentials,
R responses, P protocol and routing, W WebSocket, A sessions and access, V availability, E embedding, T the tests.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "tests" / "requirements.md"

TABLE = """
H-01 MUST Headers are copied before anything else happens, and only the copy is read.
H-02 MUST What goes upstream is chosen by name: the usual fields of a browser or, by option, only a listed few.
H-03 MUST Hop-by-hop fields, identity fields of infrastructure and providers' namespaces never go upstream.
H-04 MUST Neither does a name that some server reads as another one: with "_", ".", a space, or no token at all.
H-05 MUST Stripping comes first, our own fields after it, the credential last; `Connection` cannot name them away.
H-06 MUST The gate, the customer's session and the header it is read from are never seen by the sandbox.
H-07 MUST Cookies are filtered as bytes, so that no parser reads a reserved name in what is left.
H-08 MUST Our cookie is read by its exact bytes; of several of its name, only what verifies counts.
H-09 MUST `X-Forwarded-*` say what we know, never what the visitor wrote.
H-10 MUST Scheme and host of cookies and redirects come from the mapping, not from headers.
H-11 SHOULD `Referer` of another site is cut to its origin; HTTP and WebSocket follow one policy.
H-12 MUST HTTP requests carry the HTTP credential, handshakes the WebSocket one, URLs neither.
H-13 MUST A credential is sent once, and is a plausible header value from its construction on.
H-14 MUST No credential in a URL, query, cookie, log, exception, `repr` or cache key.
H-15 MUST A credential goes to the one origin that it was made for.
H-16 MUST Upstreams are https with a verified certificate; plain HTTP is for this computer, and must be asked for.
H-17 MUST Reserved query parameters go, however they are written; every other byte stays as it was.
H-18 SHOULD A response header that repeats the credential is dropped; targets live short and are renewed early.
H-19 MUST Secrets are held in a type that cannot be printed, copied, pickled or compared in variable time.
H-20 MUST No exception of a transport escapes: ours say its class only, and hold no frame with the request.
H-21 SHOULD Traces hold no header and no query.
H-22 MUST A log line has no query, no control characters and a bounded length.
H-23 SHOULD Other libraries' loggers can be silenced about headers and URLs with one call.
H-24 MUST Our own answers are fixed texts with a request id, careful headers, and not a word of the request.
R-01 MUST Hop-by-hop and nominated fields of a response end here; the body is framed anew.
R-02 MUST A sandbox states no facts about the public host, and gives no orders to a web server in front.
R-03 MUST A status outside 200 to 599, and a 101 nobody asked for, is 502; interim answers are counted.
R-04 MUST Names and values are validated and bounded before they go out.
R-05 MUST URLs in response headers point at the public origin and hold no reserved parameter.
R-06 MUST Redirects are never followed here.
R-07 MUST `Set-Cookie` loses `Domain`, and goes whole where its name is reserved or read in two ways.
R-08 SHOULD Where a page may be framed, its cookies are made to work in the frame.
R-09 MUST Cookies of the provider's edge pass in neither direction.
R-10 MUST Who may frame a preview is the operator's to say, and the sandbox's headers cannot say otherwise.
R-11 SHOULD Pages get careful headers where the sandbox sent none, and cannot ask for the passkeys of a domain above.
R-12 MUST Bodies pass as they are encoded, and no encoding is asked for that the visitor did not ask for.
R-13 MUST What breaks off on one side is broken off on the other, never finished as if whole.
R-14 MUST What has no body gets none.
R-15 MUST An edge's own errors are recognised narrowly, and become our codes without its text.
P-01 MUST One `Host`, one spelling, an exact look-up.
P-02 MUST A host inside a preview zone never falls through to the customer's app.
P-03 MUST Nothing is routed by what a header can poison.
P-04 MUST Only origin-form targets are taken.
P-05 MUST Path and query go upstream byte for byte.
P-06 MUST Without a raw path, the quoted one is held to the same rules.
P-07 MUST A mount's prefix is taken off as raw bytes, at a segment's boundary.
P-08 MUST Only the mapping says where a request goes.
P-09 MUST An upstream's host is a DNS name under the provider's domains, at a port that is allowed.
P-10 SHOULD No connection to a private address, whatever a name resolves to.
P-11 MUST Proxy variables of the environment reroute nothing.
P-12 MUST Tunnels and echoes are refused in whatever case they are written.
P-13 MUST A request whose length can be read in two ways is refused.
P-14 MUST The framing is ours, and the body is held to its declared length.
P-15 MUST An upgrade to anything but WebSocket is ignored, or refused beside a body.
P-16 MUST `Expect`, `TE`, `Trailer` and request trailers are not forwarded.
P-17 MUST Connections are kept apart by credential, and not used again after anything unexpected.
P-18 MUST Requests are bounded in header bytes, header count, path, query and body.
P-19 MUST A port is an integer from 1 to 65535 that the provider shows.
P-20 SHOULD Control characters in forwarded values are refused.
P-21 MUST Our own addresses are below one prefix, compared raw, that nothing of the sandbox can cover.
P-22 MUST Odd servers are survived: missing keys, repeated disconnects, a `send` that raises.
P-23 SHOULD A middleware in the wrong place is noticed and told once.
P-31 MUST Releases with known flaws are not accepted, and a command says what is too old.
W-01 MUST A WebSocket passes the same checks as a request, by the same code, before anything is spent.
W-02 MUST `Origin` of a handshake is exactly the preview's own.
W-03 MUST Subprotocols are tokens, few and short; upstream may choose only what was offered.
W-04 MUST The handshake upstream is our own, without extensions.
W-05 MUST A 101 is checked in full before anything is accepted.
W-06 MUST Upstream is dialled before the visitor is accepted; a refusal reaches them as the answer it is.
W-07 MUST Messages, fragments and queues are bounded, in time linear in their bytes.
W-08 MUST Slow peers slow the other side down; no write, close or cancellation waits for them for ever.
W-09 MUST Only codes and reasons that may go out in a close frame do.
W-10 MUST A socket whose session or access has ended is closed on both sides.
W-11 MUST Upgrades are limited in rate and number, and no counter leaks.
W-12 SHOULD Silent upstreams are pinged, and floods of control frames are cut.
W-13 MUST However a socket ends, no task is left.
W-14 SHOULD WebSocket over HTTP/2 works where the server offers it.
A-01 MUST Whatever the customer's check raises, however long it takes, it is no yes.
A-02 MUST Who somebody is and what they may see are two questions; the second is asked with the preview, default no.
A-03 MUST Code that would block the event loop never runs on it.
A-04 MUST Tokens are checked by RFC 8725: one family, a fitting key, all claims, bounded lifetimes.
A-05 MUST An issuer's keys are fetched aside, rarely, within bounds, and known keys outlive its failures.
A-06 MUST A session held by the visitor counts only as long as the app's own check says so.
A-07 MUST Decisions are remembered briefly, without credentials as keys, and can be taken back.
A-08 MUST Long responses end with the access that they began with.
A-09 MUST Nothing is spent upstream before the visitor may pass.
A-10 MUST A gate or ticket is void once its host shows something else.
A-11 SHOULD The visitor's id goes upstream only where the operator asks for it, and cannot be forged.
A-12 MUST Unknown and forbidden are told apart by nothing.
A-13 MUST A page of another site can neither post nor read with the visitor's cookies.
V-01 MUST Every wait has an end.
V-02 MUST Requests in flight are bounded for each subject, target and process.
V-03 MUST Streams are buffered within bounds, whoever is slow.
V-04 MUST Credentials are renewed once for all, ahead of time, and rarely, whatever answers say.
V-05 MUST A request is sent again at most once, and never one whose body was begun.
V-06 SHOULD A failing target is left alone for a while, and no other one with it.
V-07 MUST `Retry-After` is a small number of seconds.
V-08 SHOULD Prefetches and probes wake no machine.
V-09 MUST A shutdown tells sockets, lets requests finish for a while, and ends.
V-10 MUST A ticket is spent once among all workers, all hear of revocations, and without the store nobody gets in.
V-11 SHOULD Slow clients hold nothing for ever.
V-12 MUST Endless heads, hints, chunks and silence are cut off.
V-13 SHOULD Counters have few labels, and no secret ones.
E-04 MUST The gate cookie has one exact form, and a name that no script can plant.
E-05 MUST Tickets are single-use, short, and bound to all that they are for.
E-07 MUST The exchange takes JSON from an exact embedder, and adopts no cookie that came along.
E-08 MUST Its CORS answers are exact, for embedders only.
E-13 MUST Who may frame is a list of exact origins.
E-20 MUST A logout ends what the login opened.
T-01 MUST There is a test module for each kind of attacker, and a test for each MUST of this table.
"""

# SHOULDs that are not done, and why.
LEFT: dict[str, str] = {}


class Requirement(NamedTuple):
    id: str
    level: str
    text: str


def requirements() -> list[Requirement]:
    """The rows of the table."""
    return [Requirement(*line.split(" ", 2)) for line in TABLE.strip().splitlines()]


def named_tests() -> dict[str, list[str]]:
    """The node ids of the tests named after each id, which may be none of the table's."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in names_of_tests(path.read_text("utf-8")):
            for letter, number in re.findall(r"(?<=_)([ahprtvwe])([0-9]{2})(?=_)", name):
                found[f"{letter.upper()}-{number}"].append(f"{path.relative_to(ROOT)}::{name}")
    return found


def names_of_tests(source: str) -> list[str]:
    return re.findall(r"^(?:async )?def (test_\w+)\(", source, re.MULTILINE)


def page() -> str:
    """What `tests/requirements.md` says."""
    tests = named_tests()
    lines = [
        "<!-- Written by `python -m tests.requirements`. Edit tests/requirements.py or the tests' names instead. -->",
        "",
        "# Security requirements and their tests",
        "",
        "Each MUST has a test, and so has each SHOULD but those that give a reason. A test is named after what it",
        "shows: `test_h17_...` is for H-17.",
        "",
        "| Id | Level | Requirement | Tests |",
        "| --- | --- | --- | --- |",
    ]
    for id_, level, text in requirements():
        shown = "<br>".join(f"`{test}`" for test in tests.get(id_, []))
        lines.append(f"| {id_} | {level} | {text} | {shown or 'Not done: ' + LEFT.get(id_, '')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
