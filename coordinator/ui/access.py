"""Who may use the page: the person who started it, from this machine, and no other page in the same browser."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content security policy, unless an answer brings one of its own."""
REPORT_POLICY = "frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
"""For reports, which state the rest themselves, with the digests of their own style and script."""

_HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
_SAFE_METHODS = {"GET", "HEAD"}


@dataclass
class Access:
    """The secrets of one run."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Stands in the address that is printed; good once."""
    session: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Stands in the cookie that the token was exchanged for."""
    token_used: bool = False

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Its name; with the port, because browsers share cookies over ports."""
        return f"maifs_ui_{self.port}"

    @property
    def hosts(self) -> set[str]:
        """What a browser on this machine calls us. Another name in Host means that somebody's DNS points here."""
        return {f"127.0.0.1:{self.port}", f"localhost:{self.port}"}


class AccessGuard:
    """ASGI middleware: refuses what does not come from the page itself, exchanges the token, adds headers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        answer = self._refusal(scope) or self._exchange(scope) or self._stranger(scope)
        await (answer or self._app)(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        """Requests for another host, and requests that another origin makes."""
        headers = Headers(scope=scope)
        if headers.get("host") not in self._access.hosts:
            return PlainTextResponse("This page answers to 127.0.0.1 and localhost only.", 421)
        origin = headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self._access.hosts:
            return PlainTextResponse("Another page may not do that.", 403)
        if scope["method"] not in _SAFE_METHODS and (
            origin is None or origin.removeprefix("http://") != headers["host"]
        ):
            return PlainTextResponse("Only the page itself may do that.", 403)
        return None

    def _exchange(self, scope: Scope) -> Response | None:
        """The first visit with the right token gets the cookie; the token is then worth nothing."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        access = self._access
        if not given or self._known(scope):
            return RedirectResponse("/", 303) if given else None
        if access.token_used or not hmac.compare_digest(given.encode(), access.token.encode()):
            return None
        access.token_used = True
        answer = RedirectResponse("/", 303)
        answer.set_cookie(access.cookie, access.session, httponly=True, samesite="strict", path="/")
        return answer

    def _known(self, scope: Scope) -> bool:
        cookies = SimpleCookie(Headers(scope=scope).get("cookie", ""))
        given = cookies.get(self._access.cookie)
        return given is not None and hmac.compare_digest(given.value.encode(), self._access.session.encode())

    def _stranger(self, scope: Scope) -> Response | None:
        if self._known(scope):
            return None
        return PlainTextResponse(
            "This page is for the person who started it. Its address works once and in one browser: "
            "run `coordinator-cli ui` again for a new one.",
            403,
        )


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
