"""The server on loopback: its page, its players, and those who are none."""

import asyncio
import contextlib
import functools
import json
import struct

import pytest
from aiohttp import WSServerHandshakeError

from play import protocol
from play.connection import RateLimit
from play.kept_sessions import KEPT_SECONDS, KeptSessions, LostSession
from play.protocol import ProtocolError
from play.session import Session
from play.settings import Settings
from sostenuto.errors import UserError
from sostenuto.music.midi import midi_bytes, read_midi
from tests.factories import regular_notes
from tests.play.fake_sampler import FakeSampler
from tests.play.server import playing, serving


def asynchronous(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@asynchronous
async def test_a_player_is_answered():
    async with serving() as client, playing(client) as player:
        ready = player.of("ready")[0]
        assert ready["settings"]["mode"] == "answer"
        assert (ready["composers"], ready["lowest"], ready["highest"]) == (["Ada", "Bach"], 21, 108)
        await player.play(60, 62, 64)
        released = player.now()
        turn = await player.wait_for("turn")
        assert turn["whose"] == "model"
        notes = (await player.wait_for("notes"))["notes"]
        assert notes[0][0] == pytest.approx(released + 500, abs=100)
        assert turn["latency"] == pytest.approx(500, abs=150)
        await player.wait_for("notes", 3)
        onsets = [note[0] for message in player.of("notes") for note in message["notes"]]
        assert onsets == sorted(onsets)
        await player.send("save")
        saved = read_midi(await player.wait_for_file(), "saved").notes
        assert saved.pitch[:3].tolist() == [60, 62, 64]


@asynchronous
async def test_a_file_and_all_requests_are_answered():
    async with serving() as client, playing(client, settings={"seed": 5, "composer": "Ada"}) as player:
        assert player.of("ready")[0]["settings"]["seed"] == 5
        await player.socket.send_bytes(midi_bytes(regular_notes(100, seed=1)))
        assert (await player.wait_for("notes"))["notes"][0][4] == 2
        await player.send("set", settings={"temperature": 0.5, "mode": "together"})
        await player.wait_for("cut")
        await player.send("branches", epoch=3)
        assert len((await player.wait_for("branches"))["branches"]) == 3
        await player.send("choose", branch=2, epoch=4)
        while player.of("notes")[-1]["epoch"] != 4:
            await asyncio.sleep(0.01)
        for number, kind in enumerate(("undo", "clear"), 2):
            await player.send(kind)
            await player.wait_for("music", number)
        await player.send("continue")
        await player.send("pedal", down=True)
        await player.send("stop")
        await player.send("set", settings={"temperature": 99})
        assert "temperature: got 99" in (await player.wait_for("error"))["message"]
        await player.socket.send_bytes(b"rubbish")
        assert "the file" in (await player.wait_for("error", 2))["message"]
        await player.send("save")
        await player.send("choose", branch=0)
        assert "branch" in (await player.wait_for("error", 4))["message"]


@asynchronous
async def test_a_link_to_an_unknown_composer_begins_with_the_usual_settings():
    async with serving() as client, playing(client, settings={"composer": "Eve", "seed": 3}) as player:
        assert "Eve" in player.of("error")[0]["message"]
        assert player.of("ready")[0]["settings"]["seed"] == 0


RUBBISH = [
    "rubbish", "[]", "null", '{"type": "fly", "at": 1}', '{"type": ["key"], "at": 1}', '{"type": "key", "at": 1}',
    '{"type": "key", "at": "1", "pitch": 60, "velocity": 80}', '{"type": "key", "at": 1, "pitch": 128, "velocity": 80}',
    '{"type": "key", "at": 1, "pitch": true, "velocity": 80}', '{"type": "key", "at": 1, "pitch": 6, "velocity": 1e9}',
    '{"type": "key", "at": NaN, "pitch": 60, "velocity": 80}', '{"type": "clock", "at": -1}', '{"type": "clock"}',
    '{"type": "set", "at": 1, "settings": []}', '{"type": "pedal", "at": 1, "down": 1}',
    '{"type": "choose", "at": 1, "branch": 99999999999999999999}', '{"type": "start", "at": 1, "settings": {}}',
    '{"type": "stop", "at": 1, "epoch": -1}', f'{{"type": "clock", "at": 1{400 * "0"}}}', "[" * 4000, "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", RUBBISH)
@asynchronous
async def test_rubbish_ends_its_own_connection_only(text):
    async with serving() as client, playing(client) as player, playing(client) as rude:
        await player.play(60)
        await rude.socket.send_str(text)
        code, reason = await rude.wait_for_close()
        assert code == 1008
        assert "expected" in reason or "unknown" in reason
        await player.wait_for("notes", 2)


@asynchronous
async def test_a_large_message_ends_its_own_connection_only():
    async with serving() as client, playing(client) as player, playing(client) as rude:
        await rude.socket.send_bytes(bytes(protocol.MAX_FILE))
        assert "the file" in (await rude.wait_for("error"))["message"]
        await rude.socket.send_bytes(bytes(protocol.MAX_FILE + 1))
        code, _ = await rude.wait_for_close()
        assert code == 1009
        await player.play(60)
        await player.wait_for("notes", 2)


@asynchronous
async def test_a_flood_ends_its_own_connection_only():
    async with serving() as client, playing(client) as player, playing(client, clock=False) as rude:
        await player.play(60)
        with contextlib.suppress(ConnectionError):
            for _ in range(5_000):
                await rude.send("key", pitch=60, velocity=80)
        assert (await rude.wait_for_close()) == (1008, "got more than 400 messages a second")
        count = len(player.of("notes"))
        await player.wait_for("notes", count + 2)


@asynchronous
async def test_a_player_who_leaves_in_mid_message_leaves_a_place():
    async with serving(max_players=1) as client:
        async with playing(client) as player:
            transport = player.socket._writer.transport
            # A text frame of 100 bytes of which 3 come.
            transport.write(struct.pack("!BB4s3s", 0x81, 0x80 | 100, bytes(4), b"abc"))
            await asyncio.sleep(0.05)
            transport.abort()
        for _ in range(100):
            async with client.ws_connect("/play") as socket:
                await socket.send_str(json.dumps({"type": "start", "at": 0, "settings": {}}))
                if (await socket.receive()).type.name == "TEXT":
                    return
            await asyncio.sleep(0.05)
        raise AssertionError("the place stays taken")


@asynchronous
async def test_places_are_limited():
    async with serving(max_players=2) as client, playing(client), playing(client), client.ws_connect("/play") as third:
        closed = await third.receive()
        assert (third.close_code, closed.extra) == (1013, "All 2 places are taken. Try again later.")


@asynchronous
async def test_a_page_that_sleeps_is_not_played_to_for_ever(monkeypatch):
    monkeypatch.setattr("play.connection.FROZEN_SECONDS", 1.0)
    async with serving() as client, playing(client, clock=False) as player:
        await player.send("continue")
        await player.wait_for("notes", 3)
        await asyncio.sleep(2.0)
        count = len(player.of("notes"))
        await asyncio.sleep(1.0)
        assert len(player.of("notes")) == count
        await player.send("clock")
        await player.wait_for("notes", count + 1)


@pytest.mark.parametrize("leaves", [True, False])
@asynchronous
async def test_a_piece_is_continued_over_another_connection(leaves):
    async with serving() as client:
        async with playing(client, session="7f") as player:
            assert not player.of("ready")[0]["resumed"]
            await player.play(60, 62)
            await player.wait_for("notes", 2)
            if leaves:
                await player.socket.close()
            async with playing(client, session="7f", settings={"seed": 5}) as again:
                if not leaves:
                    assert (await player.wait_for_close())[0] == 1001
                ready = again.of("ready")[0]
                assert (ready["resumed"], ready["settings"]["seed"]) == (True, 5)
                notes = (await again.wait_for("music"))["notes"]
                assert [note[1] for note in notes if note[4] == 0] == [60, 62]
                await again.play(64)
                await again.wait_for("notes")
        async with playing(client, session="80") as other:
            assert not other.of("ready")[0]["resumed"]


def test_pieces_are_kept_for_a_while():
    now = 0.0
    kept = KeptSessions(2, lambda: now)
    pieces = [LostSession(Session(FakeSampler(), Settings()), at_us) for at_us in range(3)]
    for session_id, piece in zip("abc", pieces, strict=True):
        kept.keep(session_id, piece)
    kept.keep("", pieces[0])
    assert [kept.take(session_id) for session_id in ("a", "", "b", "b")] == [None, None, pieces[1], None]
    now = KEPT_SECONDS + 1
    assert kept.take("c") is None


@asynchronous
async def test_a_bug_ends_its_own_session_only(caplog):
    class Broken(FakeSampler):
        def sample(self, *args, **kwargs):
            raise ZeroDivisionError("a bug")

    async with serving(Broken()) as client, playing(client) as player, playing(client) as other:
        await player.send("continue")
        assert (await player.wait_for_close())[0] == 1011
        await other.play(60)
        assert other.closed is None
    assert "ZeroDivisionError: a bug" in caplog.text


@asynchronous
async def test_without_the_token_nobody_enters():
    async with serving(token="secret") as client:
        for path in ("/", "/?token=wrong", "/static/app.js", "/piano.json", "/?token=secre", "/play"):
            response = await client.get(path)
            assert response.status == 403, path
            assert "token" in await response.text()
        with pytest.raises(WSServerHandshakeError):
            await client.ws_connect("/play?token=secret")
        response = await client.get("/?token=secret")
        assert response.status == 200
        assert str(response.url).endswith("/")
        # A browser sends a host's cookies to all its ports.
        assert list(response.history[0].cookies) == [f"sostenuto_token_{client.port}"]
        assert "HttpOnly" in response.history[0].headers["Set-Cookie"]
        assert "SameSite=Strict" in response.history[0].headers["Set-Cookie"]
        async with playing(client) as player:
            assert player.of("ready")


@asynchronous
async def test_without_a_token_another_site_does_not_enter():
    async with serving() as client:
        assert (await client.get("/", headers={"Host": "evil.example"})).status == 403
        for own in ("localhost:80", "127.0.0.2:8765", "[::1]:8765"):
            assert (await client.get("/", headers={"Host": own})).status == 200
        for origin in ("https://evil.example", "null", "http://localhost:1"):
            with pytest.raises(WSServerHandshakeError, match="403"):
                await client.ws_connect("/play", headers={"Origin": origin})
        own = f"http://{client.host}:{client.port}"
        async with playing(client, headers={"Origin": own}) as player:
            assert player.of("ready")
        with pytest.raises(WSServerHandshakeError, match="403"):
            await client.ws_connect("/play", headers={"Origin": "http://a:b:c"})


@asynchronous
@pytest.mark.parametrize("origin", ["http://[::1]:8765", "http://localhost", "https://localhost"])
async def test_a_page_of_ipv6_or_of_a_default_port_is_this_server_s_own(origin):
    async with serving() as client:
        headers = {"Host": origin.partition("//")[2], "Origin": origin}
        async with playing(client, headers=headers) as player:
            assert player.of("ready")


@asynchronous
async def test_the_page_is_served_with_a_policy():
    async with serving() as client:
        response = await client.get("/")
        assert response.content_type == "text/html"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        assert "--ink: " in await (await client.get("/static/colours.css")).text()
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert (await client.get("/static/app.js")).content_type == "text/javascript"
        for missing in (
            "/static/nothing.js",
            "/static/../settings.py",
            "/static/%2e%2e/settings.py",
            "/piano/1-1.flac",
        ):
            assert (await client.get(missing)).status == 404, missing


@asynchronous
async def test_the_piano_is_served():
    import io

    import soundfile

    async with serving() as client:
        listed = await (await client.get("/piano.json")).json()
        assert listed["pitches"][0] == 21
        seconds = []
        for pitch in (listed["pitches"][0], listed["pitches"][-1]):
            loudness = []
            for velocity in listed["velocities"]:
                data = await (await client.get(f"/piano/{pitch}-{velocity}.flac")).read()
                samples, rate = soundfile.read(io.BytesIO(data))
                assert samples.ndim == 1
                assert abs(samples[: rate // 20]).max() > 0.01, "the note begins at once"
                loudness.append(abs(samples).max())
            assert loudness == sorted(loudness)
            seconds.append(len(samples) / rate)
        assert seconds[0] > 4 > seconds[1]


def test_a_rate_limit_permits_bursts_and_a_rate():
    now = 0.0
    limit = RateLimit(8, 20, lambda: now)
    for _ in range(20):
        limit.take()
    with pytest.raises(ProtocolError):
        limit.take()
    for _ in range(100):
        now += 0.125
        limit.take()
    with pytest.raises(ProtocolError):
        limit.take()


def test_an_error_is_one_line():
    message = json.loads(protocol.error(str(UserError("a\nb"))))
    assert message == {"type": "error", "message": "a b"}
