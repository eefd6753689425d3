"""Whether another middleware stands where it would change what previews get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.middleware.gzip import IdentityResponder
from starlette.types import Send


def misplaced(scope: Mapping[str, Any], send: Send) -> str:
    """What is outside of us and should be inside, with why; empty where nothing is."""
    if "session" in scope:
        return "SessionMiddleware: it may add the app's session cookie to the answers of previews"
    if isinstance(getattr(send, "__self__", None), IdentityResponder):
        return "GZipMiddleware: it holds event streams back, and compresses what the sandbox chose beside a secret"
    if getattr(send, "__qualname__", "").startswith("BaseHTTPMiddleware."):
        return "a BaseHTTPMiddleware (@app.middleware is one): it hides visitors who leave, and holds streams back"
    return ""
