"""The pages say what is so: their commands and their Python run, their links lead somewhere, their flags exist.

A command block (``` or ```bash) is run as it stands, but on a tiny corpus and with little training (SMALLER in
tests/documented_program.py). What no test can run says so in the page, `<!-- needs: a cluster -->` above the block;
of such a block is checked what can be without running it: flags, extras, overlays. Output and drawings are ```text.

README.md comes first; every other page begins with a copy of what that left, and what it says again is not done again.
"""

import ast
import concurrent.futures
import dataclasses
import functools
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from distutils.core import run_setup
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sostenuto.cli.completion import SHELLS
from sostenuto.cli.main import COMMANDS as COMMANDS_OF_OURS
from sostenuto.music.midi import write_midi
from tests import documented_program
from tests.documented_program import OURS, PROGRAMS, REPOSITORY
from tests.factories import random_notes
from tests.k8s.cluster import kubectl
from tests.processes import run_python
from trainer.presets import preset
from tuning.space_file import create_space

API_PAGE = REPOSITORY / "docs" / "api.md"
PAGES = (
    "README.md",
    # docs/api.md holds signatures, no commands.
    *sorted(str(path.relative_to(REPOSITORY)) for path in set((REPOSITORY / "docs").glob("*.md")) - {API_PAGE}),
    "k8s/README.md",
    "CONTRIBUTING.md",
)

# What a block may need that a test does not have: hardware, accounts, other machines, or much time.
NEEDS = frozenset(
    {
        *("a GPU", "several GPUs", "several hosts", "a free machine", "a CPU with bfloat16"),
        *("a network", "a bucket", "a cluster", "Slurm", "MIDI ports", "Google Cloud", "checkov"),
    }
)

COMMANDS = ("", "bash")
LANGUAGES = (*COMMANDS, "python", "yaml", "text")

PACKAGES = ("sostenuto", "beam_preprocess", "trainer", "tuning", "play")

# Programs of whose arguments nothing is known here.
STRANGERS = frozenset({"uv", "tensorboard", "gcloud", "kind", "checkov", "nvidia-smi", "squeue", "scancel", "tail"})
# What the batch scripts start.
BATCH_SCRIPTS = {
    "slurm/preprocess.sbatch": "beam_preprocess",
    "slurm/train.sbatch": "trainer",
    "slurm/tune.sbatch": "tuning",
}
# They start the command that follows their own flags.
WRAPPERS = frozenset({"srun", "taskset"})
# Flags in running text that belong to no command of ours, and not to Beam.
STRANGE_FLAGS = frozenset(
    {
        *("no-deps", "nworkers", "require-hashes", "scheduler-file"),
        *("account", "cpus-per-task", "gpus-per-node", "gpus-per-task", "kill-on-invalid-dep", "mem", "nodes"),
        *("ntasks-per-node", "partition"),
        *("requeue", "signal", "time"),
    }
)

PERFORMANCES = 20  # so that two, of the length that trainer.evaluate --generated wants, are in the test split
SECONDS_AT_MOST = 900  # for a block; on a free machine it takes seconds


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the page's path in the repository.
        line: of the fence, from 1.
        language: what stands behind the opening fence.
        text: what stands between the fences.
        needs: what the comment above it says.
    """

    page: str
    line: int
    language: str
    text: str
    needs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_command(self) -> bool:
        return self.language in COMMANDS


def blocks_of(page: str, text: str) -> list[Block]:
    """Returns the fenced blocks of a page's text."""
    found = []
    fence = re.compile(r"(?:^<!-- needs: (.*) -->\n)?^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
    for match in fence.finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        found.append(Block(page, line, match[2], match[3], tuple((match[1] or "").split(", ")) if match[1] else ()))
    return found


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


BLOCKS = [block for page in PAGES for block in blocks_of(page, read(page))]
every_page = pytest.mark.parametrize("page", PAGES)


# What is run.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a block; `calls` are its programs with their arguments."""

    status: int
    output: str
    calls: list[list[str]]


class Desk:
    """A directory as a reader of a page has it, with what the pages name, and a shell that is closely watched."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._programs = directory.with_name(f"{directory.name}-programs")
        self._done = directory.with_name(f"{directory.name}-done")

    @classmethod
    def create(cls, directory: Path) -> "Desk":
        """Makes a desk with nothing but what a reader brings."""
        desk = cls(directory)
        midi = directory / "path" / "to" / "midi"
        midi.mkdir(parents=True)
        for index in range(PERFORMANCES):
            write_midi(random_notes(index, 700), str(midi / f"{index:02}.mid"))
        shutil.copy(midi / "00.mid", directory / "song.mid")
        for index in range(PERFORMANCES):
            style = directory / "path" / "to" / "styles" / ("waltzes", "marches")[index % 2]
            style.mkdir(parents=True, exist_ok=True)
            shutil.copy(midi / f"{index:02}.mid", style)
        (directory / "start.json").write_text('{"preset": "base", "steps": 1500}')
        # The environment that make creates, the demo's folder, and the general name of a workdir.
        (directory / ".venv" / "bin").mkdir(parents=True)
        (directory / ".venv" / "bin" / "activate").touch()
        demo = directory / "build" / "demo"
        demo.mkdir(parents=True)
        shutil.copy(midi / "00.mid", demo / "primer.mid")
        (directory / "workdir").symlink_to("runs/first")
        (directory / "k8s").symlink_to(REPOSITORY / "k8s")
        desk._done.touch()
        desk._lay_out_programs()
        return desk

    def run_demo(self) -> None:
        """Leaves what `make demo` leaves: a dataset and a run, in small."""
        commands = (
            "sostenuto preprocess --input=path/to/midi --output=build/demo/latest/dataset\n"
            "sostenuto train --data=build/demo/latest/dataset --workdir=build/demo/latest/run-3min\n"
        )
        outcome = self.follow(Block("make demo", 1, "", commands, ()))
        assert outcome.status == 0, outcome.output

    def copy(self, directory: Path) -> "Desk":
        """Returns another desk with all that lies on this one, for which all that was done here has been done."""
        shutil.copytree(self.directory, directory, symlinks=True)
        desk = Desk(directory)
        shutil.copy(self._done, desk._done)
        desk._lay_out_programs()
        return desk

    def _lay_out_programs(self) -> None:
        self._programs.mkdir()
        for name in PROGRAMS:
            program = self._programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{documented_program.__file__}" {name} "$@"\n')
            program.chmod(0o755)

    def follow(self, block: Block) -> Outcome:
        """Does what a block says; what needs more than a test has is only noted."""
        calls = self.directory.with_name(f"{self.directory.name}-calls")
        calls.write_text("")
        command = [sys.executable, "-c", block.text]
        path = [os.path.dirname(sys.executable), os.path.dirname(kubectl()), os.environ["PATH"]]
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            documented_program.CALLS: str(calls),
            documented_program.DONE: "" if block.needs else str(self._done),
            documented_program.REAL_PATH: os.pathsep.join(path),
        }
        if block.is_command:
            command = [str(shutil.which("bash")), "-euo", "pipefail", "-c", f"{block.text}\nwait\n"]
            environment["PATH"] = str(self._programs)
        process = subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True, check=False,
            timeout=SECONDS_AT_MOST,
        )  # fmt: skip
        noted = [json.loads(line) for line in calls.read_text().splitlines()]
        return Outcome(process.returncode, process.stdout + process.stderr, noted)


def is_run(block: Block) -> bool:
    return block.is_command or (block.language == "python" and not block.needs)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    """Follows the pages that were asked for, two at a time; gives a function from a block to its outcome."""
    calls = [getattr(item, "callspec", None) for item in request.session.items if item.path == Path(__file__)]
    wanted = {call.params["block"].page for call in calls if call and "block" in call.params}
    directory = tmp_path_factory.mktemp("desks")
    with pytest.MonkeyPatch.context() as patch, concurrent.futures.ThreadPoolExecutor(2) as pool:
        # Building matplotlib's list of fonts costs every process seconds.
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", os.path.expanduser("~/.cache/matplotlib")))
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        first = Desk.create(directory / "first")
        first.run_demo()

        def follow(page: str, desk: Desk) -> dict[Block, Outcome]:
            return {block: desk.follow(block) for block in BLOCKS if block.page == page and is_run(block)}

        def follow_on_a_copy(page: str) -> dict[Block, Outcome]:
            return follow(page, first.copy(directory / page.replace("/", "-").removesuffix(".md")))

        readme, *others = PAGES
        known = follow(readme, first)
        pages = {page: pool.submit(follow_on_a_copy, page) for page in others if page in wanted}
        yield lambda block: known[block] if block.page == readme else pages[block.page].result()[block]


@pytest.mark.parametrize("block", list(filter(is_run, BLOCKS)), ids=str)
def test_what_a_page_says_to_do_can_be_done(block: Block, outcomes: Callable[[Block], Outcome]) -> None:
    outcome = outcomes(block)
    assert outcome.status == 0, f"{block.text}\n{outcome.output}"
    assert outcome.calls or not block.is_command, "no command"
    assert [problem for program, *arguments in outcome.calls for problem in problems(program, arguments)] == []


def written_paths(text: str) -> list[str]:
    """Returns a file in each directory of the current one that a block's commands write to."""
    paths = re.findall(r"--(?:output|workdir|csv)=[\"']?([^\s\"'$]+)", text)
    return [f"{path.partition('/')[0]}/file" for path in paths if not path.startswith(("/", "gs://"))]


@pytest.mark.parametrize("page", ["README.md", "docs/quick-start.md"])
def test_git_ignores_what_the_commands_of_the_first_pages_write(page: str) -> None:
    paths = [path for block in BLOCKS if block.page == page for path in written_paths(block.text)]
    assert paths
    process = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert sorted(set(process.stdout.split())) == sorted(set(paths)), process.stderr


# What is checked without running it.


def problems(program: str, arguments: list[str]) -> Iterator[str]:
    """Yields what is wrong with a call, as far as that shows before it is run."""
    if program in WRAPPERS:
        if "python" not in arguments:
            yield f"{program}: starts no python"
            return
        program, *arguments = arguments[arguments.index("python") :]
    match program, arguments:
        case "sostenuto", ["completion", shell]:
            if shell not in SHELLS:
                yield f"sostenuto completion {shell}: no such shell"
        case "sostenuto", ["--help" | "--version"]:
            pass
        case "sostenuto", ["help", *named]:
            yield from (f"sostenuto help {name}: no such command" for name in named if name not in COMMANDS_OF_OURS)
        case "sostenuto", [name, *_] if name not in COMMANDS_OF_OURS:
            yield f"sostenuto {name}: no such command"
        case "sostenuto", [name, *flags]:
            yield from problems("python", ["-m", COMMANDS_OF_OURS[name].module, *flags])
        case "python", ["-m", module, *flags]:
            ours, separator, beams = documented_program._cut(flags)
            if module in OURS or module.startswith("trainer."):
                yield from unknown_flags(ours, flags_of("-m", module), module)
                if separator:
                    yield from unknown_flags(beams, beam_flags(), "Beam")
            elif importlib.util.find_spec(module) is None:
                yield f"python -m {module}: no such module"
        case "python", ["-c", program]:
            ast.parse(program)
        case "python", [script, *flags]:
            if not (REPOSITORY / script).exists():
                yield f"{script}: no such file"
            else:
                yield from unknown_flags(documented_program._cut(flags)[0], flags_of(script), script)
        case "sbatch", _:
            position = next((index for index, argument in enumerate(arguments) if argument in BATCH_SCRIPTS), None)
            if position is None:
                yield f"sbatch {' '.join(arguments)}: submits none of {', '.join(BATCH_SCRIPTS)}"
            else:
                module = BATCH_SCRIPTS[arguments[position]]
                yield from unknown_flags(arguments[position + 1 :], flags_of("-m", module), module)
        case "make", _:
            text = read("Makefile")
            for argument in arguments:
                name, is_variable, _ = argument.partition("=")
                found = rf"^{name} (\?=|:=|=)" if is_variable else rf"^{name}:.* ## "
                # What only some recipes use has no default.
                if not re.search(found, text, re.MULTILINE) and f"$({name})" not in text:
                    yield f"make {argument}: not in the Makefile"
        case "kubectl", _:
            for flag, value in itertools.pairwise(arguments):
                if flag in ("-k", "kustomize"):
                    yield from rendering_problems(REPOSITORY / value)
        case "pip", ["install", *_, "--requirement", lock]:
            if not (REPOSITORY / lock).exists():
                yield f"{lock}: no such file"
        case "pip", ["install", *arguments]:
            extras = run_setup(str(REPOSITORY / "setup.py"), stop_after="init").extras_require
            # This project, from a clone.
            names = [
                re.sub(r"^\.(?=$|\[)", "sostenuto", requirement)
                for requirement in arguments
                if requirement != "--editable"
            ]
            for requirement in map(Requirement, names):
                if requirement.name == "sostenuto":
                    yield from (f"no extra {extra}" for extra in sorted(requirement.extras - set(extras)))
            if any(argument.startswith("sostenuto") for argument in arguments):
                yield "no package index has sostenuto"
        case _:
            if program not in STRANGERS:
                yield f"{program} {' '.join(arguments)}: nothing is known of it"


def unknown_flags(arguments: list[str], known: frozenset[str], command: str) -> Iterator[str]:
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--")
        if argument.startswith("--") and name and name not in known:
            yield f"{command} has no flag --{name}"


@functools.cache
def flags_of(*command: str) -> frozenset[str]:
    """The flags that a command of ours explains."""
    explained = run_python(*command, "--help", check=True).stdout
    found = re.findall(r"^ +(?:-\w, )?--(\[no\])?([\w-]+)", explained, re.MULTILINE)
    return frozenset(name for _, name in found) | {f"no{name}" for negatable, name in found if negatable}


@functools.cache
def beam_flags() -> frozenset[str]:
    """The options of Beam's pipelines."""
    program = (
        "import logging; logging.disable()\n"
        "import apache_beam.runners.dask.dask_runner\n"
        "from apache_beam.options import pipeline_options\n"
        "parsers = [pipeline_options._BeamArgumentParser(add_help=False) for _ in range(100)]\n"
        "for options in pipeline_options.PipelineOptions.__subclasses__():\n"
        "    parser = parsers.pop()\n"
        "    options._add_argparse_args(parser)\n"
        "    print(*(name.lstrip('-') for name in parser._option_string_actions))"
    )
    names = run_python("-W", "ignore", "-c", program, check=True).stdout.split()
    return frozenset(names) | {f"no_{name}" for name in names}


@functools.cache
def all_flags() -> frozenset[str]:
    """The flags of all commands of ours, of Beam, and the few of others that pages speak of."""
    commands = [("-m", module) for module in OURS]
    commands += [
        (f"benchmarks/{name}.py",) for name in ("gpu", "memory", "play", "preprocess", "train", "transformer", "tuning")
    ]
    return STRANGE_FLAGS | beam_flags() | {flag for command in commands for flag in flags_of(*command)}


def rendering_problems(overlay: Path) -> Iterator[str]:
    process = subprocess.run([kubectl(), "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    if process.returncode:
        yield process.stderr


def page_problems(page: str, text: str) -> Iterator[str]:
    """Yields what is wrong with the form of a page's blocks."""
    blocks = blocks_of(page, text)
    # A fence that stands elsewhere, such as in a list, would not be seen.
    if 2 * len(blocks) != text.count("```"):
        yield f"{page}: {text.count('```')} fences, but {len(blocks)} blocks begin and end at the margin"
    for block in blocks:
        if block.language not in LANGUAGES:
            yield f"{block}: ```{block.language}, expected one of {LANGUAGES}"
        yield from (f"{block}: needs {need}: unknown" for need in block.needs if need not in NEEDS)
        if block.language == "text":
            for line in block.text.splitlines():
                if re.match(rf"(\$ )?({'|'.join(PROGRAMS)}) ", line):
                    yield f"{block}: ```text, but a command: {line}"


@every_page
def test_every_block_says_what_it_is(page: str) -> None:
    assert list(page_problems(page, read(page))) == []


def check_search_space(block: Block, directory: Path) -> None:
    (directory / "space.yaml").write_text(block.text)
    create_space(preset("base"), tune=[], fix=[], file=str(directory / "space.yaml"))


def check_patches(block: Block, directory: Path) -> None:
    shutil.copytree(REPOSITORY / "k8s", directory / "k8s")
    overlay = directory / "k8s" / "overlays" / "local"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write(block.text)
    assert list(rendering_problems(overlay)) == []


YAML = {"docs/tuning.md": check_search_space, "k8s/README.md": check_patches}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_a_documented_file_is_understood(block: Block, tmp_path: Path) -> None:
    YAML[block.page](block, tmp_path)


# What stands in the text.


def prose_of(text: str) -> str:
    """A page's text without its blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors_of(text: str) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose_of(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: str, text: str) -> Iterator[str]:
    """Yields the links of a page to files and headings that are not there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(text)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        if not file.exists() or (anchor and anchor not in anchors_of(file.read_text("utf-8") if path else text)):
            yield target


@every_page
def test_links_lead_somewhere(page: str) -> None:
    assert list(dead_links(page, read(page))) == []


def code_of(page: str) -> list[str]:
    """What stands in backquotes in a page's text."""
    return re.findall(r"`([^`]+)`", prose_of(read(page)))


@every_page
def test_files_that_are_named_are_there(page: str) -> None:
    ours = re.compile(
        r"(docs|sostenuto|beam_preprocess|trainer|tuning|play|demo|k8s|slurm|tests|benchmarks|requirements)/[\w./-]+"
    )
    assert [name for name in code_of(page) if ours.fullmatch(name) and not (REPOSITORY / name).exists()] == []


@every_page
def test_flags_that_are_named_exist(page: str) -> None:
    ours = [code for code in code_of(page) if code.startswith(("--", "python "))]
    named = {flag for code in ours for flag in re.findall(r"(?:^|\s)--([\w-]+)", code)}
    assert named - all_flags() == set()


@every_page
def test_targets_of_make_that_are_named_exist(page: str) -> None:
    calls = [code.split()[1:] for code in code_of(page) if code.startswith("make ")]
    assert [problem for arguments in calls for problem in problems("make", arguments)] == []


# That what is wrong is found.


def test_a_block_is_read_with_what_it_needs() -> None:
    text = "# A\n\n<!-- needs: a bucket, Google Cloud -->\n```\nmake demo\n```\n\n```text\nx\n```\n"
    assert blocks_of("a.md", text) == [
        Block("a.md", 4, "", "make demo\n", ("a bucket", "Google Cloud")),
        Block("a.md", 8, "text", "x\n", ()),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```ruby\nputs 1\n```\n", "```ruby"),
        ("<!-- needs: luck -->\n```\nmake demo\n```\n", "needs luck: unknown"),
        ("```text\npython -m trainer\n```\n", "but a command"),
        ("- a list\n  ```\n  make demo\n  ```\n", "2 fences, but 0 blocks"),
    ],
)
def test_a_block_of_no_known_kind_is_found(text: str, found: str) -> None:
    (problem,) = page_problems("a.md", text)
    assert found in problem


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("python -m trainer --dat=dataset", "trainer has no flag --dat"),
        ("srun --nodes=2 python -m trainer --dat=dataset", "trainer has no flag --dat"),
        ("sbatch --nodes=2 slurm/train.sbatch --dat=dataset", "trainer has no flag --dat"),
        ("sbatch --nodes=2 slurm/trian.sbatch --data=dataset", "submits none of"),
        ("python -m beam_preprocess -- --direct_workers=2", "Beam has no flag --direct_workers"),
        ("python -m no_such_module", "no such module"),
        ("sostenuto trian", "no such command"),
        ("sostenuto train --dat=dataset", "trainer has no flag --dat"),
        ("sostenuto completion fish", "no such shell"),
        ("python benchmarks/train.py --dat=dataset", "has no flag --dat"),
        ("python benchmarks/no.py", "no such file"),
        ("make demonstration", "not in the Makefile"),
        ("make demo CORPS=midi", "not in the Makefile"),
        ("kubectl apply -k k8s/overlays/gke-l5", "gke-l5"),
        ("pip install sostenuto[beam]", "no package index has sostenuto"),
        ("pip install .[beem]", "no extra beem"),
        ("rm -rf dataset", "nothing is known of it"),
    ],
)
def test_a_call_that_cannot_be_right_is_found(call: str, found: str) -> None:
    (problem,) = problems(*(lambda program, *arguments: (program, arguments))(*call.split()))
    assert found in problem


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rm -rf dataset\n", "rm: command not found"),
        ("gcloud auth login\n", "must say what it needs"),
        ("python -m json.tool\n", "must say what it needs"),
        ("python -m sostenuto.inspect no-such.mid\n", "no such file"),
    ],
)
def test_a_command_that_fails_or_that_no_test_can_run_is_found(text: str, found: str, tmp_path: Path) -> None:
    outcome = Desk.create(tmp_path / "desk").follow(Block("a.md", 1, "", text, ()))
    assert outcome.status != 0
    assert found in outcome.output


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "# One two\n[a](LICENSE) [b](#one-two) [c](docs/tuning.md#when-something-fails)\n"
    text += "[d](no.md) [e](#two) [f](docs/tuning.md#no)\n"
    assert list(dead_links("README.md", text)) == ["no.md", "#two", "docs/tuning.md#no"]
