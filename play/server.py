"""The local server: the page, its sounds, and a WebSocket for each player."""

import asyncio
import functools
import hmac
import importlib.resources
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import WSCloseCode, web
from yarl import URL

import play
from play import piano, protocol
from play.connection import Connection, Instrument
from play.kept_sessions import KeptSessions
from sostenuto import html

logger = logging.getLogger(__name__)

COOKIE: Final = "sostenuto_token"  # and the port: a browser sends a host's cookies to all its ports

_TYPES: Final = {
    "html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"
}  # fmt: skip
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HEARTBEAT_SECONDS: Final = 20.0  # between pings; a player who does not answer is gone
_CLOSE_SECONDS: Final = 2.0  # until a connection is closed without the player's answer

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The application that serves players.

    Args:
        instrument: what they play with.
        max_players: the most at once.
        token: a secret without which nobody enters; None lets everyone in whose browser is on this machine.
    """

    def __init__(self, instrument: Instrument, *, max_players: int, token: str | None = None) -> None:
        self._instrument, self._max_players, self._token = instrument, max_players, token
        self._sockets: set[web.WebSocketResponse] = set()
        self._kept = KeptSessions(max_players)

    def make_app(self) -> web.Application:
        """Returns the application."""
        app = web.Application(middlewares=[self._admit, _add_headers])
        add_page(app.router)
        app.router.add_get("/piano.json", _list_samples)
        app.router.add_get(r"/piano/{pitch:\d{1,3}}-{velocity:\d{1,3}}.flac", _serve_sample)
        app.router.add_get("/play", self._play)
        app.on_shutdown.append(self._close_all)
        return app

    @web.middleware
    async def _admit(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Serves a request from this site's own page, with the token if there is one."""
        if self._token is None:
            # Another name is that of another site, which leads its visitors here (DNS rebinding).
            if not is_loopback(_authority(request).host or ""):
                raise web.HTTPForbidden(text="This server is for browsers on its own machine.\n")
            return await handler(request)
        if _equal(request.query.get("token", ""), self._token) and request.path == "/":
            # The address bar, history and links do not keep the token; the browser keeps what is behind #.
            response = web.HTTPSeeOther("/")
            response.set_cookie(_cookie_name(request), self._token, httponly=True, samesite="Strict", path="/")
            raise response
        if not _equal(request.cookies.get(_cookie_name(request), ""), self._token):
            raise web.HTTPForbidden(text="Open the address that sostenuto play printed: it ends with ?token=…\n")
        return await handler(request)

    async def _play(self, request: web.Request) -> web.StreamResponse:
        """Serves a player."""
        origin = request.headers.get("Origin")
        # As it is written: `authority` would add a default port, and drop the brackets of IPv6.
        if origin is not None and _parse_url(origin).raw_authority != request.headers.get("Host"):
            raise web.HTTPForbidden(text="This page belongs to another site.\n")
        socket = web.WebSocketResponse(
            heartbeat=_HEARTBEAT_SECONDS,
            timeout=_CLOSE_SECONDS,
            max_msg_size=protocol.MAX_FILE + 1,  # aiohttp refuses a message of this size, too.
            compress=False,
        )
        await socket.prepare(request)
        if len(self._sockets) >= self._max_players:
            message = f"All {self._max_players} places are taken. Try again later."
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=message.encode())
            return socket
        self._sockets.add(socket)
        try:
            await Connection(socket, self._instrument, self._kept).run()
        except Exception:
            logger.exception("a player's session failed; the others continue")
            await socket.close(code=WSCloseCode.INTERNAL_ERROR, message=b"The server has a bug; its log says which.")
        finally:
            self._sockets.discard(socket)
        return socket

    async def _close_all(self, _: web.Application) -> None:
        reason = b"The server was stopped."
        await asyncio.gather(*(socket.close(code=WSCloseCode.GOING_AWAY, message=reason) for socket in self._sockets))


@web.middleware
async def _add_headers(request: web.Request, handler: _Handler) -> web.StreamResponse:
    response = await handler(request)
    if not response.prepared:
        response.headers.update(_HEADERS)
    return response


def add_page(router: web.UrlDispatcher) -> None:
    """Adds the routes of the page, its styles, scripts and icon."""
    router.add_get("/", functools.partial(_serve_file, "index.html"))
    for name in _static_files():
        router.add_get(f"/static/{name}", functools.partial(_serve_file, name))


@functools.cache
def _static_files() -> dict[str, bytes]:
    own, shared = (importlib.resources.files(package).joinpath("static") for package in (play, html))
    files = [shared.joinpath("colours.css"), *(file for file in own.iterdir() if file.is_file())]
    return {file.name: file.read_bytes() for file in files}


async def _serve_file(name: str, _: web.Request) -> web.Response:
    content_type = _TYPES[name.rpartition(".")[2]]
    charset = "utf-8" if content_type.startswith("text/") else None
    headers = {"Cache-Control": "no-cache"}
    return web.Response(body=_static_files()[name], content_type=content_type, charset=charset, headers=headers)


async def _list_samples(_: web.Request) -> web.Response:
    # Rendered here once, while the page shows its progress.
    await asyncio.to_thread(piano.get_samples)
    return web.json_response({"pitches": piano.PITCHES, "velocities": piano.VELOCITIES})


async def _serve_sample(request: web.Request) -> web.Response:
    samples = await asyncio.to_thread(piano.get_samples)
    sample = samples.get((int(request.match_info["pitch"]), int(request.match_info["velocity"])))
    if sample is None:
        raise web.HTTPNotFound(text="There is no such sample.\n")
    return web.Response(body=sample, content_type="audio/flac", headers={"Cache-Control": "max-age=86400"})


def is_loopback(host: str) -> bool:
    """Returns whether a name or an address is that of the machine itself, for itself only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cookie_name(request: web.Request) -> str:
    return f"{COOKIE}_{_authority(request).port}"


def _authority(request: web.Request) -> URL:
    return _parse_url(f"http://{request.headers.get('Host', '')}")


def _parse_url(text: str) -> URL:
    """Returns a URL; an empty one if the text is none."""
    try:
        return URL(text)
    except ValueError:
        return URL()


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
