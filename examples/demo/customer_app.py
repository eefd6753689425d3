"""Acme Studio: a company's app with its own logins, and previews of its users' machines on hosts of their own.

`create_app` mounts the proxy, `authorize` says who may see which preview, and `open_preview` hands the browser a
ticket: these three are what an app adds. The browser's part is `static/preview.js`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from preview_proxy import Embed, HostPattern, Nullspace, Preview, PreviewProxy, PreviewProxyMiddleware, Tickets

HERE = Path(__file__).parent
PREVIEW_PORT = 3000


@dataclass(frozen=True)
class User:
    id: str
    name: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Project:
    id: str
    name: str
    summary: str
    owner: str
    machine: str


# A real app has a database and keeps hashes. This one shows its passwords on the login page.
USERS = {
    "ada": User("ada", "Ada Lovelace", "engine-1843"),
    "grace": User("grace", "Grace Hopper", "compiler-1952"),
}
PROJECTS = {
    "aurora": Project("aurora", "Aurora", "A small web page in green.", "ada", "mch_aurora"),
    "borealis": Project("borealis", "Borealis", "The same page, in violet.", "grace", "mch_borealis"),
}
SIGNED_IN: set[str] = set()
"""The ids of the users who are signed in: what a session table would say. Signing out ends it in every browser."""


async def authorize(subject: str, preview: Preview) -> bool:
    """Whether this user may see this preview. A yes stands for some seconds, or until `proxy.revoke`."""
    owners = {project.machine: project.owner for project in PROJECTS.values()}
    return preview.port == PREVIEW_PORT and owners.get(preview.machine) == subject and subject in SIGNED_IN


@dataclass(frozen=True)
class Settings:
    """`port` is the one that browsers see; `api_url` and `api_key` are the provider's."""

    port: int
    api_url: str
    api_key: str = field(repr=False)

    @property
    def origin(self) -> str:
        return f"http://app.localhost:{self.port}"

    def preview_origin(self, machine: str) -> str:
        return f"http://{PREVIEW_PORT}-{machine}.preview.localhost:{self.port}"


def create_app(settings: Settings) -> FastAPI:
    """The app with its previews. Secrets are new at each start, so a restart signs everybody out."""
    proxy = PreviewProxy(
        router=HostPattern("{port}-{machine}.preview.localhost", scheme="http", port=settings.port),
        provider=Nullspace(
            api_key=settings.api_key,
            base_url=settings.api_url,
            domains=["nullspace.localhost"],
            allow_insecure_loopback=True,
        ),
        tickets=Tickets(secret=secrets.token_urlsafe(32), embedders=[settings.origin]),
        authorize=authorize,
    )
    app = FastAPI(title="Acme Studio", openapi_url=None, exception_handlers={StarletteHTTPException: show_error})
    app.state.settings = settings
    app.state.proxy = proxy
    app.host("localhost", RedirectResponse(settings.origin))
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.include_router(routes)
    app.add_middleware(
        SessionMiddleware, secret_key=secrets.token_urlsafe(32), session_cookie="acme_session", same_site="lax"
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["app.localhost", "localhost"])
    # Added last, so it is outermost: a preview's requests never enter the app.
    app.add_middleware(PreviewProxyMiddleware, proxy=proxy)
    return app


routes = APIRouter()


# Who is asking


async def current_user(request: Request) -> User:
    """The signed-in user, or 401."""
    user = USERS.get(request.session.get("user", ""))
    if user is None or user.id not in SIGNED_IN:
        raise HTTPException(401, "You are not signed in.")
    return user


async def owned_project(id: str, user: Annotated[User, Depends(current_user)]) -> Project:
    """The user's project. Somebody else's looks the same as none at all."""
    project = PROJECTS.get(id)
    if project is None or project.owner != user.id:
        raise HTTPException(404, "There is no such project.")
    return project


async def same_origin(request: Request) -> None:
    """Refuse a POST that another site's page made. Every browser sends `Origin` with a POST."""
    if request.headers.get("origin") != request.app.state.settings.origin:
        raise HTTPException(403, "This request came from another site.")


CurrentUser = Annotated[User, Depends(current_user)]
OwnedProject = Annotated[Project, Depends(owned_project)]
SameOrigin = Depends(same_origin)


# The preview


@routes.post("/projects/{id}/preview", dependencies=[SameOrigin])
async def open_preview(project: OwnedProject, user: CurrentUser, request: Request, response: Response) -> Embed:
    """A ticket for the project's preview, for the page's script to exchange at the preview's own host."""
    response.headers["cache-control"] = "no-store"
    proxy: PreviewProxy = request.app.state.proxy
    return await proxy.ticket(Preview(project.machine, PREVIEW_PORT), subject=user.id)


# Pages


@routes.get("/")
async def list_projects(request: Request, user: CurrentUser) -> HTMLResponse:
    settings: Settings = request.app.state.settings
    cards = Html(
        "".join(
            fill(
                "card.html",
                id=project.id,
                name=project.name,
                summary=project.summary,
                machine=project.machine,
                host=settings.preview_origin(project.machine).removeprefix("http://"),
            )
            for project in PROJECTS.values()
            if project.owner == user.id
        )
    )
    return page(request, "projects.html", user=user.name, cards=cards)


@routes.get("/projects/{id}")
async def show_project(request: Request, project: OwnedProject) -> HTMLResponse:
    origin = request.app.state.settings.preview_origin(project.machine)
    return page(request, "project.html", id=project.id, name=project.name, host=origin.removeprefix("http://"))


@routes.get("/login")
async def login_page(request: Request) -> HTMLResponse:
    return show_login(request)


@routes.post("/login", dependencies=[SameOrigin])
async def login(request: Request) -> Response:
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    name, password = (form.get(field, [""])[0] for field in ("user", "password"))
    user = USERS.get(name.strip().lower())
    if user is None or not secrets.compare_digest(user.password.encode(), password.encode()):
        problem = "That name and password do not belong together."
        return show_login(request, status=403, user=name, problem=problem)
    request.session.clear()
    request.session["user"] = user.id
    SIGNED_IN.add(user.id)
    return RedirectResponse("/", 303)


@routes.post("/logout", dependencies=[SameOrigin])
async def logout(request: Request) -> Response:
    user = request.session.pop("user", "")
    SIGNED_IN.discard(user)
    request.app.state.proxy.revoke(subject=user)
    return RedirectResponse("/login", 303)


def show_login(request: Request, *, status: int = 200, user: str = "", problem: str = "") -> HTMLResponse:
    accounts = Html("".join(fill("account.html", id=known.id, password=known.password) for known in USERS.values()))
    return page(request, "login.html", status=status, accounts=accounts, user=user, problem=problem)


async def show_error(request: Request, error: StarletteHTTPException) -> Response:
    """A page for somebody who navigates, JSON for a script."""
    if "text/html" not in request.headers.get("accept", ""):
        return await http_exception_handler(request, error)
    if error.status_code == 401:
        return RedirectResponse("/login", 303)
    return page(request, "error.html", status=error.status_code, code=str(error.status_code), message=error.detail)


class Html(str):
    """Text that is HTML already, so that `fill` leaves it as it is."""


def fill(name: str, /, **values: str) -> Html:
    """A file of `pages/` with its ``$fields`` filled in, escaped."""
    escaped = {field: value if isinstance(value, Html) else escape(value) for field, value in values.items()}
    return Html(Template((HERE / "pages" / name).read_text("utf-8")).substitute(escaped))


def page(request: Request, name: str, /, *, status: int = 200, **values: str) -> HTMLResponse:
    previews = f"http://*.preview.localhost:{request.app.state.settings.port}"
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": f"'self' {previews}",
        "frame-src": previews,
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{directive} {sources}" for directive, sources in policy.items()),
        # Not `no-referrer`: with it, browsers send `Origin: null` with a form, and `same_origin` could not tell.
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    return HTMLResponse(fill(name, **values), status, headers)
