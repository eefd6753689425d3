"""What `PreviewProxy.ticket` gives, and to whom."""

from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

from preview_proxy import Embed, HostTable, Preview, PreviewProxy, Static, Tickets, first_of
from preview_proxy.errors import ConfigurationError
from tests.test_gate import owner_only
from tests.test_proxy import APP, PATTERN, PREVIEW, proxy_of
from tests.world import OWNER, SECRET

pytestmark = pytest.mark.anyio


async def test_a_ticket_says_where_and_shows_nothing_when_printed() -> None:
    embed = await proxy_of(PATTERN).ticket(PREVIEW, subject=OWNER, path="/docs?x=1#y")
    assert embed == Embed("https://3000-m1.previews.example", embed.ticket, "/docs?x=1#y")
    assert embed.ticket not in repr(embed)


async def test_a_ticket_is_for_those_who_may_see_the_preview() -> None:
    async def broken(subject: str, preview: Preview) -> bool:
        raise LookupError("canary")

    for authorize, status in ((owner_only, 404), (broken, 503)):
        with pytest.raises(HTTPException) as refusal:
            await proxy_of(PATTERN, authorize=authorize).ticket(PREVIEW, subject="eve")
        assert refusal.value.status_code == status
        assert "canary" not in refusal.value.detail
        assert (refusal.value.__cause__, refusal.value.__context__) == (None, None)


@pytest.mark.parametrize("path", ["", "x", "//evil.example", "/\\evil.example", "https://evil.example"])
async def test_a_frame_starts_at_a_path_of_the_preview(path: str) -> None:
    with pytest.raises(ValueError, match="path must start with one '/'"):
        await proxy_of(PATTERN).ticket(PREVIEW, subject=OWNER, path=path)


async def test_a_preview_without_a_public_host_gets_no_ticket() -> None:
    with pytest.raises(ValueError, match="the router has no host"):
        await proxy_of(PATTERN).ticket(Preview("m.1", 3000), subject=OWNER)


async def test_a_ticket_may_choose_among_hosts_that_show_the_preview() -> None:
    router = first_of(PATTERN, HostTable({"shop.example": PREVIEW, "other.example": Preview("m2", 1)}))
    proxy = proxy_of(router)
    assert (await proxy.ticket(PREVIEW, subject=OWNER)).origin == "https://3000-m1.previews.example"
    assert (await proxy.ticket(PREVIEW, subject=OWNER, host="shop.example")).origin == "https://shop.example"
    for host in ("other.example", "nowhere.example", "x.previews.example"):
        with pytest.raises(ValueError, match="does not show"):
            await proxy.ticket(PREVIEW, subject=OWNER, host=host)


async def test_a_ticket_names_its_embedder_where_there_are_several() -> None:
    proxy = proxy_of(PATTERN, tickets=Tickets(SECRET, [APP, "https://admin.example"]))
    await proxy.ticket(PREVIEW, subject=OWNER, embedder="https://admin.example")
    for embedder in (None, "https://evil.example"):
        with pytest.raises(ValueError, match="embedder"):
            await proxy.ticket(PREVIEW, subject=OWNER, embedder=embedder)


async def test_without_tickets_none_can_be_issued() -> None:
    async def session(connection: object) -> str:
        return OWNER

    proxy = PreviewProxy(router=PATTERN, provider=Static({}), authorize=owner_only, session=session)
    with pytest.raises(ConfigurationError, match="tickets="):
        await proxy.ticket(PREVIEW, subject=OWNER)
    await proxy.aclose()
