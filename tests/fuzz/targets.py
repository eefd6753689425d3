"""The table of targets, each with inputs to start from."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz import messages, values

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        values.cookies,
        values.set_cookie,
        values.query,
        values.path,
        values.url,
        values.link,
        values.refresh,
        values.policy,
        values.authority,
        values.origin,
        values.key_set,
        values.edge_error,
        values.gate,
        messages.request,
        messages.response,
        messages.frames,
        messages.close,
        messages.connection,
    )
}

SEEDS: dict[str, list[bytes]] = {
    "cookies": [
        b"a=1; session=S; __Host-Http-pp=S",
        b'a="x; y"; \xa0session=S\nb=2 __ns_x =1',
        b"session\t= S;pp-development",
    ],
    "set_cookie": [b"\x00a=1; Domain=x.dev; Path=/; Max-Age=5", b"\x01__Host-a=1; Secure; Path=/; samesite=lax"],
    "query": [
        b"a=1&edge_token=S;b=%20+",
        b"%65dge_token=1&__ns_preview_transport=x",
        b"bl_preview_token;daytona_sandbox_auth_key",
    ],
    "path": [b"a/..%2f..%5c..;x/%2e%2e/", b"./a//b"],
    "url": [
        b"https://m1-3000.edge.dev:443/a?edge_token=1#f",
        b"//localhost:3000\\x",
        b"https://u@[::1]:3000/",
        b"wss:/\xc3\xa9",
    ],
    "link": [b"<https://m1-3000.edge.dev/a>; rel=preload, </b?edge_token=1>", b"<<>"],
    "refresh": [b"0;url='https://m1-3000.edge.dev/a'", b"1.5 ; URL = //localhost:3000"],
    "policy": [b"default-src 'self'; frame-ancestors *, img-src *;", b"FRAME-ancestors\t'none'"],
    "authority": [b"\x013000-m1.previews.dev.:443", b"\x00localhost:80", b"\x01[::1]:0"],
    "origin": [b"https://app.acme.com:8443", b"http://[::1]"],
    "key_set": [
        b'{"keys": [{"kid": "a", "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}',
        b'{"keys": [{"kid": 1e999}]}',
    ],
    "edge_error": [b'\x005\n{"error": {"code": "edge_token_expired"}}', b'\x02\n{"code": "sandbox_not_found"}'],
    "gate": [b"\x01\x10x", b"\x02\x00", b"\x00\x00eyJhbGciOiJub25lIn0.e30."],
    "request": [
        b"POST\n1.1\n/a%2f/..\nb=1&edge_token=S\nHost:x\nCookie:session=S; a=1\nContent-Length:5\nConnection:cookie",
        b"GET\n2\n/\n\nReferer:https://u@x.dev/a\nX_Forwarded_For:1\nUpgrade:h2c\nTransfer-Encoding:chunked",
    ],
    "response": [
        b"302\nlocation://localhost:3000/a\nset-cookie:__Host-a=1; Domain=x\ncontent-length:5\nlink:</a>;rel=x",
        b"200\nconnection:x-a, close\nx-a:1\ncontent-security-policy:frame-ancestors *\nx:canary-0123456789",
    ],
    "frames": [
        b"\x03\x81\x02hi\x89\x00\x01\x01a\x80\x01b\x88\x02\x03\xe8",
        b"\x01\x82\x7e\x00\x80" + bytes(128),
        b"\x02\x88\x03\x03\xe8\xff",
    ],
    "close": [b"\x00\x00\x03\xe8bye", b"\x00\x00\x0f\xa1" + "é".encode() * 70, b""],
    "connection": [
        b"\x00HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"\x02HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nx: y\r\n\r\n",
        b"\x04HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nuntil the end",
        b"\x06HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00",
        b"\x01HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
}
