"""Dialling an upstream. Its name is looked up once, and what was checked is what is connected to."""

from __future__ import annotations

import asyncio
import socket
import ssl

from preview_proxy.core.addresses import is_public
from preview_proxy.core.models import Origin


async def dial(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.Protocol,
    origin: Origin,
    tls: ssl.SSLContext | None,
    *,
    private: bool,
) -> asyncio.Transport:
    """Connect `protocol` to the first address of `origin` that answers, over `tls` where it is given.

    Unless `private`, only addresses of the public internet are tried. A name that is loopback by itself is this
    computer, and does not need it. Raises `OSError`, of which `ssl.SSLError` and a failed look-up are kinds.
    """
    failure = OSError("the name has no address that may be dialled")
    for address in await _addresses(loop, origin, private=private):
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, address, origin.port, ssl=tls, server_hostname=origin.host if tls else None
            )
            return transport
        except ssl.SSLError:  # somebody answered, and was not whom we wanted
            raise
        except OSError as error:
            failure = error
    raise failure


async def _addresses(loop: asyncio.AbstractEventLoop, origin: Origin, *, private: bool) -> list[str]:
    if origin.is_loopback:
        return ["127.0.0.1"]  # RFC 6761 §6.3: whatever a resolver would say
    found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    return [address for address in addresses if private or is_public(address)]
