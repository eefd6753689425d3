"""Writes `docs/reference/` from the tables in the code: `python -m docs.generate`. A test says when it is due."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from textwrap import dedent

import preview_proxy
from docs.edges import EDGES, edge_rows
from docs.markdown import document, names, table
from preview_proxy import Limits, Policy, errors, tickets
from preview_proxy import gate as gate_module
from preview_proxy.core import cookies, frames, headers, plan, policy, urls, websocket
from preview_proxy.transports import exchange, websocket_stream
from tests.abilities import ABILITIES, UVICORN

REFERENCE = Path(__file__).parent / "reference"


LIMITS = {
    "header_count": ("Fields in a request's head.", "`headers_too_large`"),
    "header_bytes": ("Bytes of their names and values together.", "`headers_too_large`"),
    "path_bytes": ("Bytes of a request's path.", "`target_too_long`"),
    "query_bytes": ("Bytes of a request's query.", "`target_too_long`"),
    "body_bytes": ("Bytes of a request's body; None for no limit. Bodies are streamed.", "`body_too_large`"),
    "response_header_count": ("Fields in an upstream response's head.", "`upstream_protocol_error`"),
    "response_header_bytes": ("Bytes of their names and values together.", "`upstream_protocol_error`"),
    "message_bytes": ("Bytes of one WebSocket message, either way.", "close code 1009"),
    "requests_per_subject": ("Requests under way for one subject. Nobody waits in a queue.", "`too_many_requests`"),
    "requests_per_preview": ("The same for one preview.", "`preview_busy`"),
    "requests": ("The same in this process.", "`server_busy`"),
    "sockets_per_subject": ("WebSockets open, or being opened, for one subject.", "`too_many_requests`"),
    "sockets_per_preview": ("The same for one preview.", "`preview_busy`"),
    "sockets": ("The same in this process.", "`server_busy`"),
    "handshakes_per_minute": ("WebSocket handshakes of one subject at one preview.", "`too_many_requests`"),
    "connections": ("Connections to one upstream origin with one credential.", "the next waits"),
    "pool_timeout": ("Seconds to wait for one of them.", "`upstream_busy`"),
    "connect_timeout": ("Seconds to connect to upstream, TLS included.", "`upstream_timeout`"),
    "head_timeout": (
        "Seconds from the end of the upload to the response head.",
        "`upstream_timeout`",
    ),
    "idle_timeout": (
        "Seconds without a byte of the body, of the request's as of the response's. Event streams and WebSockets may "
        "be silent for ever.",
        "`body_timeout`, or the connection is cut",
    ),
    "write_timeout": ("Seconds for upstream to take what we write.", "`upstream_timeout`; on a WebSocket, close 1011"),
    "check_timeout": ("Seconds for each call of `authorize`, the session and the router.", "`check_failed`"),
    "provider_timeout": ("Seconds for one call of the provider.", "`provider_timeout`"),
    "mints_per_minute": ("Calls of the provider for targets in a minute, by one process.", "`provider_busy`"),
    "wake_timeout": ("Seconds for the provider to wake a machine.", "the machine is shown as paused"),
    "decision_ttl": (
        "Seconds that a yes of `authorize` stands, for one subject and preview; 30 at most. A no is never remembered.",
        "it is asked again",
    ),
    "recheck_interval": (
        "Seconds after which what is open ends, unless `authorize` and the session have said yes again. They are asked "
        "from half of that time on.",
        "close code 4401, 4403 or 4503, or cut",
    ),
    "drain_timeout": ("Seconds that requests under way have left at shutdown. WebSockets end at once.", "1012, or cut"),
}

POLICY = {
    "private_headers": "Names that a visitor's request loses before upstream. `x-acme-*` stands for any ending.",
    "private_cookies": "Cookies that never pass, in either direction. Yours, if they reach the previews' hosts.",
    "request_headers": (
        'What upstream gets of a visitor: `"pass"`, all but those that a rule names; `"allow-list"`, only what a '
        "browser sends."
    ),
    "allowed_headers": "Names that the allow-list lets pass besides. `authorization` is one to think about.",
    "added_headers": "Fields that a page gets where the machine sent none of the name; `{}` for none.",
    "send_user": "Whether upstream gets the subject, as `x-preview-user`. A visitor's own never passes.",
    "private_upstreams": "Whether an upstream's name may resolve to a private address. For machines of your own.",
    "embedders": "Origins whose pages may frame a preview, besides those of `Tickets`. With none: `'none'`.",
    "wake": "Whether a visitor who opens a page of a paused machine has it resumed, where the provider can. Once in 30 "
    "seconds at most, and for nothing but a navigation.",
    "revoke_on_close": "Whether targets are taken back at shutdown, where the provider can. Else they end when they "
    "expire.",
    "limits": "The limits below.",
}

REWRITES = {
    "_url": "An address of upstream, or of `localhost` at the preview's own port, becomes the public one.",
    "_link": "The same, for each target.",
    "_refresh": "The same, for its URL.",
    "_allow_origin": "Upstream's own origin becomes the public one; any other value passes.",
    "_content_security_policy": (
        "Upstream's own host becomes the public one. `frame-ancestors` goes: the operator decides it."
    ),
    "_set_cookie": "Changed or dropped: see [cookie rules](cookie-rules.md).",
}

CUTS = {
    "drained": "The server stops, or restarts.",
    "revoked": "`authorize` says no, or `PreviewProxy.revoke` named the preview.",
    "signed_out": "The login ended: it expired, was revoked, or its user signed out.",
    "unchecked": "Whether access goes on could not be found out for longer than the last yes stood.",
}

CONSTRUCTORS = ("PreviewProxy", "Tickets", "RedisState", "HostPattern", "HostTable", "Nullspace", "Blaxel",
                "OpenComputer", "Aether", "Daytona", "Digitorn", "DigitornHosts", "E2B", "Static", "CookieSession",
                "StarletteSession", "JWTSession")  # fmt: skip


def main() -> None:
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, "utf-8")


def pages() -> dict[str, str]:
    """Every generated page by its file name."""
    return {
        "close-codes.md": close_codes_page(),
        "cookie-rules.md": cookie_rules_page(),
        "errors.md": errors_page(),
        "header-rules.md": header_rules_page(),
        "provider-errors.md": provider_errors_page(),
        "servers.md": servers_page(),
        "settings.md": settings_page(),
    }


def errors_page() -> str:
    tree = dedent(inspect.cleandoc(errors.__doc__ or "").split("\n\n")[1])
    rows = [
        (f"`{code}`", row.status, row.close_code, "yes" if row.retryable else "no", row.message, row.suggested_action)
        for code, row in errors.CODES.items()
    ]
    return document(
        "Errors",
        "What a visitor gets when a preview cannot be shown. The app in the machine answers its own errors, and those "
        "pass as they are; only answers with the header `x-preview-proxy-error: <code>` are the proxy's.",
        "- **A navigation** gets a small HTML page with the message, the suggested action, the code and a request id.\n"
        '- **Everything else** gets JSON: `{"code", "message", "retryable", "suggested_action", "request_id"}`.\n'
        "- **A WebSocket** is refused with the same status and JSON. A server without ASGI's denial response "
        "extension closes it instead, with the close code and the code as its reason.\n"
        "- `Retry-After` is there with every 429 and 503 that may be retried: 1 to 300 seconds.\n"
        "- **A WebSocket that is open already** closes on both sides: with the close code, and the code as its reason.",
        "The request id is also in the log, in one line of the logger `preview_proxy`: status, method, path without "
        "query, preview, side (`source`), code and detail. INFO below 500, WARNING from there.",
        "## Codes",
        table(("Code", "Status", "Close", "Retryable", "Message", "Suggested action"), rows),
        "## The exceptions",
        "A provider or a router may raise them. Any other exception there becomes `provider_failed` or `check_failed`.",
        f"```text\n{tree}\n```",
    )


def servers_page() -> str:
    rows = [
        (row.what, *(row.instead.get(server, "yes") for server in (UVICORN[0], "hypercorn", "granian")))
        for row in ABILITIES.values()
    ]
    return document(
        "Servers",
        "The proxy is an ASGI app, and every test of the relay runs on uvicorn (with both of its parsers and with two "
        "of its WebSocket implementations), hypercorn and granian; those with malformed requests run behind nginx too. "
        "What a server does by itself is its own; the differences that a browser or a machine can notice are these.",
        table(("", "uvicorn 0.54", "hypercorn 0.18", "granian 2.8"), rows),
        "granian has to run the app in tasks of asyncio, as it does unless `--task-impl rust` is given: access is "
        "taken back and visitors' leaving is obeyed by cancelling tasks.",
        "## trio",
        "The relay's tests run on hypercorn with trio's event loop (`hypercorn -k trio`). The proxy's own connection "
        "pool needs asyncio, so give it `PreviewProxy(transport=httpx.AsyncHTTPTransport(trust_env=False))`: without, "
        "it refuses to start. Early hints and trailers of upstream's end there, and a request costs many times as "
        "much. `RedisState` needs asyncio too.",
        "## Fronts",
        "A front that passes `Upgrade: h2c` on would hand its visitors a connection that it no longer looks into. "
        "[The file for nginx](../how-to/behind-a-load-balancer.md#nginx) drops it.",
    )


def header_rules_page() -> str:
    every = set(headers.REQUEST_DROPPED)
    hop = headers.HOP_BY_HOP
    prefixes = tuple(p for p in headers.REQUEST_DROPPED_PREFIXES if p not in headers.HOP_BY_HOP_PREFIXES)
    response = tuple(
        p for p in headers.RESPONSE_DROPPED_PREFIXES if p not in headers.HOP_BY_HOP_PREFIXES + headers.PROVIDER_PREFIXES
    )
    rewrites = [(f"`{name.decode()}`", REWRITES[rule.__name__]) for name, rule in sorted(plan._REWRITES.items())]
    return document(
        "Header rules",
        "What passes between the visitor and the machine. A field that no rule below names passes as it is: order, "
        "duplicates and bytes unchanged. HTTP and WebSocket handshakes follow the same rules.",
        "## Both ways: dropped",
        f"Hop-by-hop (RFC 9110 §7.6.1): {names(hop, headers.HOP_BY_HOP_PREFIXES)}, and every name that `Connection` "
        "lists.",
        f"Providers' namespaces: {names((), headers.PROVIDER_PREFIXES)}.",
        "## Towards the machine",
        f"Dropped: {names(every - hop - {b'cookie', b'host', b'referer', b'content-length'}, prefixes)}.",
        "Dropped too: `Policy.private_headers`, what the session declares that it reads, every name with an `_` or "
        "that is no token, and the names of the provider's credential.",
        table(
            ("Field", "Becomes"),
            (
                ("`host`", "The host of upstream."),
                ("`cookie`", "One field, without reserved names: see [cookie rules](cookie-rules.md)."),
                ("`referer`", "The preview's own pages: whole. Another site's: its origin only."),
                ("`origin`", "Unchanged, after it was checked."),
                ("`content-length`", "As declared, or `transfer-encoding: chunked`. The body is held to it."),
                ("`sec-websocket-*`", "Our own handshake; the visitor's subprotocols, and no extension."),
                ("`x-forwarded-host`", "The public host. A visitor's own is dropped."),
                ("`x-forwarded-proto`", "The public scheme. Likewise."),
                ("`x-preview-user`", "With `Policy.send_user`: the subject, what is not ASCII percent-encoded."),
                ("`x-forwarded-for`", "The address of ASGI's `scope['client']`. Likewise."),
                ("the credential", "Added last, below the transport seam. Only to the endpoint it was given for."),
            ),
        ),
        f"Query parameters dropped, however they are written: {names(urls.RESERVED_PARAMETERS)}. Path and query pass "
        "byte for byte otherwise.",
        "## Towards the visitor",
        f"Dropped: {names(headers.RESPONSE_DROPPED - hop, response)}, `cdn-cache-control` and `*-cdn-cache-control`. "
        "So is any field that repeats the credential, and `www-authenticate` of a page: the browser would ask its user "
        "for a password in the name of your host.",
        table(("Field", "Becomes"), (*rewrites, ("`content-security-policy`", "One more: `frame-ancestors …`."))),
        "## Added towards the visitor",
        "To pages, which is every type of content but those below, where the machine sent no field of the name. "
        "`Policy.added_headers` replaces the list.",
        table(
            ("Field", "Value"), [(f"`{name.lower()}`", f"`{value}`") for name, value in policy.ADDED_HEADERS.items()]
        ),
        f"No pages: {names((), headers._INERT)}; anything with `xml` in its type is one.",
        "With `session=`, previews may be below your own domain. Then each page denies "
        "`publickey-credentials-get` and `publickey-credentials-create` whatever the machine sent, or its page could "
        "ask for the passkeys of your app.",
        "## With an allow-list",
        '`Policy(request_headers="allow-list")` lets these pass towards the machine, and the names in '
        "`Policy.allowed_headers`. What the table above writes is written as before; what is dropped stays dropped.",
        f"{names(headers.REQUEST_ALLOWED, headers.REQUEST_ALLOWED_PREFIXES)}.",
    )


def provider_errors_page() -> str:
    head = ("The edge says", "Status", "Code", "What the proxy does", "Calls of the API")
    sections: list[str] = []
    for provider, words in EDGES.items():
        found = [row for row in edge_rows() if row.provider == provider]
        rows = [(row.said, row.row.status, f"`{row.code}`", row.reaction, row.calls) for row in found]
        sections += [f"## {provider}", words, table(head, rows)]
    return document(
        "Errors of the providers' edges",
        "What a provider's edge says of its own accord, and what a visitor gets for it. Every other answer is the "
        "app's own, and passes as it is. An app can imitate its edge; the most it brings about is one target made anew "
        "in 30 seconds.",
        *sections,
    )


def cookie_rules_page() -> str:
    gate = tickets.gate_set_cookie("<value>", 3600, secure_origin=True).decode()
    development = tickets.gate_set_cookie("<value>", 3600, secure_origin=False).decode()
    return document(
        "Cookie rules",
        "Cookies are read and written as bytes. A pair is what is between two `;`, less spaces and tabs at its ends; "
        "nothing is unquoted or decoded.",
        "## The gate",
        f"```text\n{gate}\n```",
        f"Over plain http on localhost it is called `{cookies.DEVELOPMENT_GATE_COOKIE}`, with the same attributes:",
        f"```text\n{development}\n```",
        "`Max-Age` ends with the login that it stands for, and the same time is signed into the value. Several cookies "
        f"of the name are each looked at, {gate_module.MAX_CANDIDATES} at most; those of two subjects are a 400.",
        "## Reserved names",
        f"In any case of letters, and as the start of a name: {names((), cookies._OURS + cookies._PROVIDER_PREFIXES)}.",
        "As a whole name: `Policy.private_cookies`, and the cookies that the session declares that it reads.",
        "## Towards the machine",
        "All `Cookie` fields become one, in the visitor's order. A pair passes byte for byte, unless it",
        "- has no `=`, or a name that is no token (RFC 9110 §5.6.2);\n- has a reserved name;\n"
        "- holds a reserved name after a space in its value, where some parsers begin a new pair.",
        "## Towards the visitor",
        "A `Set-Cookie` is dropped whole where",
        "- its name is missing, is no token, or is reserved;\n"
        f"- name and value are longer than {cookies.MAX_PAIR} bytes;\n"
        "- its name begins with `__Host-` or `__Secure-` and its attributes break that prefix's rule;\n"
        f"- it is one more than {cookies.MAX_SET_COOKIES} in a response;\n"
        "- it repeats the credential of the target.",
        "What is left of it:",
        table(
            ("Attribute", "Becomes"),
            (
                ("`Domain`", "Removed: the cookie stays on its own preview's host."),
                ("`Secure; SameSite=None; Partitioned`", "Added, or put in the place of its own, where somebody may "
                 "frame the preview and the public origin is https or localhost."),
                ("any other", f"Unchanged; the last of several counts. Dropped above {cookies.MAX_ATTRIBUTE} bytes."),
            ),
        ),
    )  # fmt: skip


def close_codes_page() -> str:
    own = sorted({row.close_code for row in errors.CODES.values()})
    refusals = [(code, names(name for name, row in errors.CODES.items() if row.close_code == code)) for code in own]
    seen = [(f"{code}", f"{sent}") for code, sent in sorted(websocket._NEVER_SENT.items())]
    return document(
        "Close codes",
        "How a WebSocket ends. What one side says is told to the other, code and reason, as far as it may be said in a "
        "frame (RFC 6455 §7.4).",
        "## Passed on",
        f"{ranges(websocket.SENDABLE)} and 3000-4999 pass unchanged. A reason is cut to {websocket.MAX_REASON} bytes, "
        "between two characters. Codes that only describe what was seen become",
        table(("Seen", "Sent on"), seen),
        "and every other code becomes 1011, without a reason.",
        "## Our own, on an open socket",
        table(
            ("Code", "When"),
            (
                (1000, "Upstream closed without a code."),
                (1008, f"Upstream sent more than {websocket_stream.MAX_CONTROLS} pings and pongs in a second."),
                (frames.TOO_BIG, "A message is larger than `Limits.message_bytes`, from either side."),
                (1011, "Upstream broke the connection or the protocol, or took nothing for `Limits.write_timeout`; or "
                 f"it was silent for {websocket_stream.SILENCE:g} seconds, and after a ping again."),
            ),
        ),
        f"Upstream hears {frames.PROTOCOL_ERROR} for a broken frame, {frames.INVALID_DATA} for text that is not UTF-8, "
        f"and {frames.TOO_BIG} for a message that is too large.",
        "On both sides, with the code as the reason (1012 also says when to come back):",
        table(
            ("Code", "Reason", "When"),
            sorted((errors.CODES[code].close_code, f"`{code}`", CUTS[c]) for c, (_, code) in exchange._CUTS.items()),
        ),
        "## In place of a refusal",
        "A handshake is refused with an HTTP response. A server without ASGI's denial response extension closes it "
        "instead, with the code as the reason:",
        table(("Close code", "Codes"), refusals),
    )  # fmt: skip


def ranges(numbers: Iterable[int]) -> str:
    """Numbers, those in a row as a range."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{each[0]}-{each[-1]}" if len(each) > 1 else f"{each[0]}" for each in found)


def settings_page() -> str:
    limits = [(f"`{name}`", default, *LIMITS[name]) for name, default in described(Limits, LIMITS)]
    choices = [(f"`{name}`", default, POLICY[name]) for name, default in described(Policy, POLICY)]
    classes = [part for name in CONSTRUCTORS for part in constructor(getattr(preview_proxy, name))]
    return document(
        "Settings",
        "`PreviewProxy(policy=Policy(...))` takes the tables; the constructors further down take the rest. A value "
        "that could not work raises a `ValueError` at construction; most are `ConfigurationError`.",
        "## Policy",
        table(("Name", "Default", "Meaning"), choices),
        "## Limits",
        "Sizes in bytes, times in seconds.",
        table(("Name", "Default", "Bounds", "Beyond it"), limits),
        *classes,
    )


def described(kind: type, texts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Name and default of every field. Raises `ValueError` where `texts` has other names than the class."""
    found = fields(kind)
    if [field.name for field in found] != list(texts):
        raise ValueError(f"docs/generate.py does not describe the fields of {kind.__name__}")
    return [(field.name, default_text(field.default)) for field in found]


def default_text(value: object) -> str:
    if value is MISSING:
        return "the defaults"
    if isinstance(value, int) and value >= 1024 and value % 1024 == 0:
        size, unit = (value // 1024**2, "MiB") if value % 1024**2 == 0 else (value // 1024, "KiB")
        return f"`{value}` ({size} {unit})"
    return f"`{value!r}`"


def constructor(kind: type) -> list[str]:
    """A class's own words, and how it is called."""
    call = f"{kind.__name__}{parameters(kind.__init__)}"  # type: ignore[misc]
    text = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    return [f"## {kind.__name__}", f"```text\n{call}\n```", text]


def parameters(function: Callable[..., None]) -> str:
    lines = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        default = "" if parameter.default is parameter.empty else f" = {value_text(parameter.default)}"
        lines.append(f"{parameter.name}: {parameter.annotation}{default}")
    return "(\n" + "".join(f"    {line},\n" for line in lines) + ")"


def value_text(value: object) -> str:
    return f"{value.__module__}.{value.__name__}" if inspect.isbuiltin(value) else repr(value)


if __name__ == "__main__":
    main()
