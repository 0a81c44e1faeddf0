import sys
import wave

import numpy as np
import pytest

from sostenuto.errors import UserError
from sostenuto.music import audio
from sostenuto.music.notes import Notes

A4 = Notes.from_onsets([69], [0], [1_000_000], [100])


@pytest.fixture(params=["soundfont", "tones"])
def player(request, monkeypatch):
    if request.param == "tones":
        monkeypatch.setitem(sys.modules, "midirenderer", None)  # as if it were not installed
    return request.param


def read(path):
    """Sample rate and samples [frames, channels], full scale 1."""
    with wave.open(str(path)) as file:
        assert file.getsampwidth() == 2
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        return file.getframerate(), samples / 32767


def test_a4_sounds_at_440_hz_for_its_time_and_a_tail(tmp_path, player):
    name = audio.render_wav(A4, tmp_path / "a4.wav")
    assert ("TimGM6mb" in name) == (player == "soundfont")
    assert "midirenderer" in name
    rate, samples = read(tmp_path / "a4.wav")
    assert len(samples) / rate == pytest.approx(1 + audio.TAIL_SECONDS, abs=0.01)
    spectrum = np.abs(np.fft.rfft(samples[:rate, 0]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=3)
    assert np.sqrt(np.mean(samples[: rate // 2] ** 2)) > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["a4.wav"]


def test_it_fades_out_without_a_click(tmp_path, player):
    audio.render_wav(A4, tmp_path / "a4.wav")
    rate, samples = read(tmp_path / "a4.wav")
    assert np.abs(samples[-rate // 100 :]).max() < 0.01
    assert np.abs(samples[: rate // 2]).max() == pytest.approx(0.9, abs=0.01)


def test_the_piano_is_not_cut_off_at_the_last_note_off(tmp_path):
    audio.render_wav(A4, tmp_path / "a4.wav")
    rate, samples = read(tmp_path / "a4.wav")
    assert np.abs(samples[int(1.05 * rate) : int(1.2 * rate)]).max() > 0.01


def test_the_loudest_cluster_does_not_clip(tmp_path, player):
    pitches = np.tile([69, 74, 79, 84], 5)
    cluster = Notes.from_onsets(pitches, np.zeros(20, int), np.full(20, 1_000_000), np.full(20, 127))
    audio.render_wav(cluster, tmp_path / "cluster.wav")
    _, samples = read(tmp_path / "cluster.wav")
    loudest = np.abs(samples)
    assert loudest.max() == pytest.approx(0.9, abs=0.01)
    assert (loudest > 0.999 * loudest.max()).sum() < 10  # a clipped wave stays at its limit


def test_notes_sound_when_they_are_written(tmp_path, player):
    notes = Notes.from_onsets([60, 60], [0, 3_000_000], [100_000, 3_100_000], [100, 100])
    audio.render_wav(notes, tmp_path / "two.wav")
    rate, samples = read(tmp_path / "two.wav")
    before = np.abs(samples[int(2.5 * rate) : int(2.98 * rate)]).max()
    after = np.abs(samples[int(2.99 * rate) : int(3.1 * rate)]).max()
    assert before < 0.1 * after


def test_a_pedal_lets_a_released_key_sound(tmp_path, player):
    notes = Notes.from_onsets([60, 84], [0, 2_000_000], [100_000, 2_100_000], [100, 1])
    audio.render_wav(notes, tmp_path / "dry.wav")
    audio.render_wav(notes, tmp_path / "held.wav", np.array([[50_000, 1_500_000]]))
    rate, dry = read(tmp_path / "dry.wav")
    _, held = read(tmp_path / "held.wav")
    while_down, after = (slice(int(start * rate), int(start * rate) + rate // 5) for start in (1.0, 1.8))
    assert np.abs(held[while_down]).max() > 5 * np.abs(dry[while_down]).max()
    assert np.abs(held[after]).max() < 0.3 * np.abs(held[while_down]).max()


def test_the_last_pedal_sounds_to_its_end(tmp_path, player):
    audio.render_wav(A4, tmp_path / "a4.wav", np.array([[500_000, 4_000_000]]))
    rate, samples = read(tmp_path / "a4.wav")
    assert len(samples) / rate == pytest.approx(4 + audio.TAIL_SECONDS, abs=0.01)
    assert np.abs(samples[3 * rate : 4 * rate]).max() > 0.01


def test_a_very_long_performance_is_truncated_and_named_so(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "MAX_SECONDS", 60)
    notes = Notes.from_onsets([60, 62, 64], [0, 59_000_000, 61_000_000], [10**6, 10**9, 62_000_000], [90, 90, 90])
    name = audio.render_wav(notes, tmp_path / "long.wav")
    assert "first 1 minutes only" in name
    rate, samples = read(tmp_path / "long.wav")
    assert len(samples) / rate == pytest.approx(60 + audio.TAIL_SECONDS, abs=0.01)
    assert "only" not in audio.render_wav(A4, tmp_path / "a4.wav")


def test_without_a_soundfont_there_is_still_a_sound(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "SOUNDFONT", "no-such.sf2")
    assert "plain tones" in audio.render_wav(A4, tmp_path / "a4.wav")
    _, samples = read(tmp_path / "a4.wav")
    assert np.abs(samples).max() > 0.5


def test_no_notes_is_an_error_that_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match="no notes to play"):
        audio.render_wav(Notes.empty(), tmp_path / "silence.wav")
    assert not list(tmp_path.iterdir())
