"""Runs the server until the process is ended."""

import asyncio
import concurrent.futures
import errno
import secrets
import socket
import webbrowser
from collections.abc import Callable

from aiohttp import web
from yarl import URL

from play.connection import Instrument
from play.server import Server, is_loopback
from play.settings import Settings
from sostenuto.errors import UserError
from sostenuto.music.midi import Sustain
from trainer.generation.live import LiveSampler

_TOKEN_BYTES = 16


class Address:
    """The page's address.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one.
        token: the secret of the page's address; None for a random one if other machines reach the host.
    """

    def __init__(self, host: str, port: int, token: str | None) -> None:
        self._host, self._port = host, port
        self.token = token or (None if is_loopback(host) else secrets.token_urlsafe(_TOKEN_BYTES))

    def bind(self) -> socket.socket:
        """Returns a socket that listens; raises UserError if it cannot, before a model is loaded."""
        given = f"--host={self._host} --port={self._port}"
        try:
            (family, *_, place), *_ = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            return socket.create_server(place[:2], family=family)
        except (socket.gaierror, UnicodeError) as error:
            reason = error.strerror if isinstance(error, socket.gaierror) else "it is no host's name"
            raise UserError(f"{given}: the host is unknown ({reason}). Pass an address of this machine") from error
        except OSError as error:
            remedy = {
                errno.EADDRINUSE: "the port is taken. Pass another --port, or 0 for a free one",
                errno.EADDRNOTAVAIL: "this machine does not have the address. Pass one of its own",
                errno.EACCES: "the port needs more rights. Pass a --port above 1023",
            }.get(error.errno or 0, f"cannot be served ({error.strerror})")
            raise UserError(f"{given}: {remedy}") from error

    def url(self, listener: socket.socket) -> str:
        """Returns the page's address."""
        host = self._host
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        url = URL.build(scheme="http", host=host, port=listener.getsockname()[1], path="/")
        return str(url.with_query(token=self.token) if self.token else url)


def serve(
    sampler: LiveSampler,
    settings: Settings,
    address: Address,
    listener: socket.socket,
    *,
    max_players: int,
    opens_browser: bool,
    announce: Callable[[str], None],
    sustain: Sustain,
    description: str,
) -> None:
    """Serves the page until the process is ended.

    Args:
        sampler: of the model.
        settings: of a player who chooses none.
        address: of the page.
        listener: the socket that `address` bound.
        max_players: the most at once.
        opens_browser: opens the page in this machine's browser.
        announce: is called with the page's address when players can enter.
        sustain: as for `Session`.
        description: of the model, for the players.
    """

    async def run() -> None:
        with concurrent.futures.ThreadPoolExecutor(1, "model") as executor:
            instrument = Instrument(sampler, settings, executor=executor, sustain=sustain, description=description)
            server = Server(instrument, max_players=max_players, token=address.token)
            runner = web.AppRunner(server.make_app(), access_log=None, handle_signals=False)
            await runner.setup()
            try:
                await web.SockSite(runner, listener).start()
                url = address.url(listener)
                announce(url)
                if opens_browser:
                    await asyncio.to_thread(webbrowser.open, url)
                await asyncio.Event().wait()
            finally:
                await runner.cleanup()

    asyncio.run(run())
