"""The responses that are ours: refusals and empty answers, fixed texts without a word of the request in them."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from string import Template

from starlette.types import Message, Send

from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import PreviewProxyError

_STYLE = """
:root{color-scheme:light dark;--soft:color-mix(in srgb,CanvasText 68%,Canvas);
--line:color-mix(in srgb,CanvasText 16%,Canvas)}
body{margin:0;box-sizing:border-box;min-height:100vh;padding:1rem;display:grid;place-items:center;
background:color-mix(in srgb,CanvasText 4%,Canvas);color:CanvasText;font:16px/1.5 system-ui,sans-serif}
main{box-sizing:border-box;width:100%;max-width:26rem;padding:2rem;border:1px solid var(--line);border-radius:1rem;
background:Canvas}
h1{font-size:1.375rem;line-height:1.25;letter-spacing:-.015em;margin:.375rem 0;text-wrap:balance}
p{margin:0}
p,b,small{color:var(--soft)}
b,small{font:.8125rem/1.7 ui-monospace,monospace}
small{display:block;margin-top:1.5rem;padding-top:1rem;border-top:1px solid var(--line);overflow-wrap:anywhere}
""".strip()
_PAGE = Template(
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    f"<title>$message</title><style>{_STYLE}</style>"
    "<main><b>$status</b><h1>$message</h1><p>$action</p><small>$code<br>Request $request_id</small></main></html>"
)
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
# Where a browser shows what it gets as a page (Fetch §2.2.7 destinations).
_PAGES = (b"document", b"iframe", b"frame")


def wants_page(headers: RawHeaders) -> bool:
    """Whether a person will look at the answer: a navigation, or a client without Fetch Metadata that asks for HTML."""
    for name, value in headers:
        if name == b"sec-fetch-dest":
            return value in _PAGES
    return any(name == b"accept" and b"text/html" in value for name, value in headers)


def refusal(
    error: PreviewProxyError, request_id: str, *, page: bool, frame_ancestors: bytes
) -> tuple[int, RawHeaders, bytes]:
    """Status, headers and body for an error: an HTML page, or JSON with the same facts."""
    row = error.row
    if page:
        content_type, text = b"text/html; charset=utf-8", _page(error, request_id)
    else:
        fields = {
            "code": error.code,
            "message": row.message,
            "retryable": row.retryable,
            "suggested_action": row.suggested_action,
            "request_id": request_id,
        }
        content_type, text = b"application/json", json.dumps(fields)
    body = text.encode()
    policy = b"default-src 'none'; style-src 'sha256-%s'; %s" % (_STYLE_HASH.encode(), frame_ancestors)
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", policy),
        (b"referrer-policy", b"no-referrer"),
        (b"x-preview-proxy-error", error.code.encode()),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    return row.status, tuple(headers), body


def _page(error: PreviewProxyError, request_id: str) -> str:
    row = error.row
    return _PAGE.substitute(
        status=row.status, message=row.message, action=row.suggested_action, code=error.code, request_id=request_id
    )


async def respond(
    send: Send, status: int, headers: RawHeaders, body: bytes = b"", prefix: str = "http.response"
) -> None:
    """Send a whole response; with the prefix ``websocket.http.response``, as a refused handshake."""
    start: Message = {"type": f"{prefix}.start", "status": status, "headers": list(headers)}
    await send(start)
    await send({"type": f"{prefix}.body", "body": body, "more_body": False})
