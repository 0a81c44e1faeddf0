"""Plays with a pianist, in the browser or through MIDI ports: `sostenuto play --workdir=DIR`."""

import logging
import signal
from typing import TYPE_CHECKING

from absl import flags

from play.settings import BOUNDS, HAND_OVERS, MODES, Settings
from sostenuto import cli
from sostenuto.errors import UserError
from trainer.generation.arguments import check_density, check_starts_from_silence
from trainer.generation.composers import composer_ids
from trainer.workdir.layout import load_config, load_run

if TYPE_CHECKING:
    from trainer.generation.live import LiveSampler

logger = logging.getLogger(__name__)

USAGE = """--workdir=DIR [flags]

Opens a page in the browser on which you play with a trained model, with keys, a mouse or a MIDI piano. With --midi_in
and --midi_out, it plays through MIDI ports instead, without a page.
"""
EXAMPLES = (
    "--workdir=run",
    "--workdir=run/export --composer='Frédéric Chopin' --port=8080",
    "--workdir=run --host=0.0.0.0",
    "--workdir=run --midi_in='Digital Piano' --midi_out='Digital Piano'",
)

cli.start_group("input and output")
_WORKDIR = flags.DEFINE(cli.Path("DIR"), "workdir", None, "Workdir of the trained model, or its export.")
_MIDI_IN = flags.DEFINE(
    cli.Text("NAME"), "midi_in", None,
    "MIDI port to hear, or a part of its name; virtual makes one named Sostenuto. Needs --midi_out. "
    "(default: play in the browser)",
)  # fmt: skip
_MIDI_OUT = flags.DEFINE(
    cli.Text("NAME"), "midi_out", None,
    "MIDI port to play on, or a part of its name; virtual makes one named Sostenuto. Needs --midi_in. "
    "(default: play in the browser)",
)  # fmt: skip
cli.start_group("server")
_HOST = flags.DEFINE(
    cli.Text("ADDRESS"), "host", "127.0.0.1",
    "Address to serve the page at. 127.0.0.1 is for this machine only; 0.0.0.0 is for every machine that can reach it, "
    "with the token.",
)  # fmt: skip
_PORT = flags.DEFINE_integer(
    "port", 8765, "Port to serve the page at; 0 takes a free one.", lower_bound=0, upper_bound=65_535
)
_TOKEN = flags.DEFINE(
    cli.Text("SECRET"), "token", None,
    "Secret in the page's address, which every player needs. (default: a random one, unless --host is this machine)",
)  # fmt: skip
_PLAYERS = flags.DEFINE_integer("players", 4, "Players at once, at most.", lower_bound=1, upper_bound=64)
_BROWSER = flags.DEFINE_bool("browser", True, "Open the page in the browser.")
cli.start_group("playing, which a page can change")
_DEFAULTS = Settings()
_MODE = flags.DEFINE_enum(
    "mode", _DEFAULTS.mode, MODES,
    "With answer, the model plays after a pause and listens while you play; with together, it plays on while you play; "
    "with listen, it plays only when it is asked.",
)  # fmt: skip
_HAND_OVER = flags.DEFINE_enum(
    "hand_over", _DEFAULTS.hand_over, HAND_OVERS, "Hand over to the model by a pause, or by pressing the sustain pedal."
)


def _define_number(name: str, help: str) -> flags.FlagHolder:
    bounds = BOUNDS[name]
    return flags.DEFINE_float(
        name, getattr(_DEFAULTS, name), help, lower_bound=bounds.minimum, upper_bound=bounds.maximum
    )


_PAUSE = _define_number("pause", "Seconds from the release of the last key until the model plays.")
_TEMPERATURE = _define_number(
    "temperature", "Factor of the default temperatures of sostenuto generate: below 1 safer, above 1 bolder."
)
_TOP_P = _define_number("top_p", "Draw from the most likely values whose probabilities add up to this.")
_DENSITY = _define_number("density", "Notes per second to approach; 0 disables.")
_KEY = flags.DEFINE(
    cli.Text("KEY"), "key", _DEFAULTS.key, 'Key of the model\'s pitches, such as "D minor". (default: any pitch)'
)
_COMPOSER = flags.DEFINE(
    cli.Text("NAME"), "composer", _DEFAULTS.composer,
    "Composer in whose style the model plays. (default: none in particular)",
)  # fmt: skip
_SEED = flags.DEFINE_integer(
    "seed", _DEFAULTS.seed, "Seed of sampling: after equal notes the same seed plays the same music.",
    lower_bound=0, upper_bound=int(BOUNDS["seed"].maximum),
)  # fmt: skip


def main() -> None:
    """Plays until the process is ended."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # A terminal is closed: notes at a MIDI output have to end.
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    workdir, settings = cli.require_flag(_WORKDIR), _parse_settings()
    midi_in, midi_out = _MIDI_IN.value or "", _MIDI_OUT.value or ""
    if bool(midi_in) != bool(midi_out):
        given, missing = ("midi_in", "midi_out") if midi_in else ("midi_out", "midi_in")
        raise UserError(f"--{given}={midi_in or midi_out}: --{missing} is missing. Pass both")
    config, run = load_config(workdir), load_run(workdir)
    try:
        check_starts_from_silence(config)
    except UserError as error:
        raise UserError(f"{workdir}: {error}") from None
    composer_ids(settings.composer, 1, run.composers or ())
    try:
        check_density(settings.density, config)
    except UserError as error:
        raise UserError(f"--{error}") from None
    if midi_in:
        from play import ports

        with ports.open_ports(midi_in, midi_out) as (heard, played):
            sampler, _ = _load_sampler(workdir)
            cli.print_result(f"playing with {workdir}: hears {heard.name}, plays on {played.name}; Ctrl-C ends")
            ports.play(sampler, settings, heard, played, sustain=run.sustain or "ignore")
    else:
        from play.serve import Address, serve

        address = Address(_HOST.value, _PORT.value, _TOKEN.value)
        with address.bind() as listener:
            sampler, train_step = _load_sampler(workdir)
            serve(
                sampler, settings, address, listener, max_players=_PLAYERS.value, opens_browser=_BROWSER.value,
                announce=lambda url: cli.print_result(f"play at {url} (Ctrl-C ends)"),
                sustain=run.sustain or "ignore", description=f"{workdir}, train_step {train_step:,}",
            )  # fmt: skip


def _parse_settings() -> Settings:
    """Returns the settings that the flags ask for."""
    try:
        return Settings(
            mode=_MODE.value, pause=_PAUSE.value, hand_over=_HAND_OVER.value, temperature=_TEMPERATURE.value,
            top_p=_TOP_P.value, density=_DENSITY.value, key=_KEY.value or "", composer=_COMPOSER.value or "",
            seed=_SEED.value,
        )  # fmt: skip
    except UserError as error:
        raise UserError(f"--{error}") from None


def _load_sampler(workdir: str) -> tuple["LiveSampler", int]:
    """Returns the sampler, compiled, and the train_steps of its weights."""
    from trainer.distribution.faults import translate_gpu_errors
    from trainer.generation.live import LiveSampler
    from trainer.workdir.load_model import load_model

    with translate_gpu_errors("Close other programs that use the GPU"):
        trained = load_model(workdir)
        sampler = LiveSampler(trained)
        logger.info("compiling the model, which takes some seconds")
        sampler.compile()
    return sampler, trained.train_step


if __name__ == "__main__":
    cli.run(main, usage=USAGE, required=(_WORKDIR,), examples=EXAMPLES)
