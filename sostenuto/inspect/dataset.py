"""Description of a dataset, as lines of text."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator

from sostenuto import storage
from sostenuto.data.json_record import JsonRecord
from sostenuto.data.manifest import MANIFEST_NAME, REJECTED_NAME, SPLITS, Manifest
from sostenuto.data.performance import Performance
from sostenuto.errors import UserError
from sostenuto.inspect.describe import format_facts, format_nonzero, format_quantiles, format_table, format_title
from sostenuto.music.histograms import Histograms
from sostenuto.text import counted, file_size, indented

_MAX_COMPOSERS = 30
_EXAMPLES = 3  # of rejected files, for each reason


@dataclasses.dataclass
class Survey:
    """Counts over a dataset's performances that dataset.json does not have: pieces by split, the others by composer."""

    pieces: defaultdict[str, set[str]] = dataclasses.field(default_factory=lambda: defaultdict(set))
    performances: defaultdict[str, Counter[str]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))
    notes: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: defaultdict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))

    def add(self, performance: Performance) -> None:
        """Counts a performance."""
        composer = performance.composer
        self.pieces[performance.split].add(performance.piece)
        self.performances[composer][performance.split] += 1
        self.notes[composer] += len(performance.notes)
        self.seconds[composer] += performance.notes.seconds


@dataclasses.dataclass(frozen=True)
class _Rejection(JsonRecord):
    """A line of rejected.jsonl."""

    REMEDY = "Run sostenuto preprocess again"

    path: str
    reason: str
    detail: str


def describe_dataset(manifest: Manifest, survey: Survey, *, width: int | None) -> list[str]:
    """Returns lines about a dataset; raises UserError if dataset.json or rejected.jsonl has another format."""
    rows = [_split_row(manifest, survey, split) for split in SPLITS]
    header = ("split", "performances", "pieces", "notes", "hours", "shards", "shard size")
    try:
        facts = list(_list_facts(manifest))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{manifest.directory}: {MANIFEST_NAME} lacks a field or has another format ({error}). "
            "Run sostenuto preprocess again"
        ) from error
    lines = [format_title(manifest.directory, width), "", *format_facts(facts, width), ""]
    lines += [*format_table(header, rows, "<>>>>>>", width), "", *_list_composers(survey, width), ""]
    lines += format_quantiles(sum((manifest.histograms(split) for split in SPLITS), Histograms.zeros()), width)
    if manifest.rejected:
        lines += ["", *_list_rejected(manifest, width)]
    return lines


def _list_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    source = manifest.source
    yield "fingerprint", manifest.sha256[:16]
    splits = f"splits and composers from {source['metadata']}" if source["metadata"] else "splits by fractions"
    yield "source", f"{counted(source['files'], 'MIDI file')}; {splits}"
    yield "options", " ".join(f"{name}={_format_option(value)}" for name, value in manifest.options.items())
    rejected = sum(manifest.rejected.values())
    yield "rejected", counted(rejected, "file") if rejected else "none"
    yield from format_nonzero([*manifest.left_out(), (source["unlisted"], "unlisted file")])
    if source["straddling_pieces"]:
        yield "beware", f"in more than one split: {'; '.join(source['straddling_pieces'])}"
    if warning := manifest.size_warning():
        yield "beware", warning


def _format_option(value: object) -> str:
    return ",".join(f"{part:g}" for part in value) if isinstance(value, list) else str(value)


def _split_row(manifest: Manifest, survey: Survey, split: str) -> list[str]:
    entry = manifest.splits[split]
    sizes = [shard.bytes for shard in entry.shards]
    size_range = dict.fromkeys(map(file_size, (min(sizes), max(sizes)))) if sizes else ["–"]
    counts = [f"{count:,}" for count in (entry.performances, len(survey.pieces[split]), entry.notes)]
    return [split, *counts, f"{entry.seconds / 3600:,.2f}", f"{len(sizes):,}", " to ".join(size_range)]


def _list_composers(survey: Survey, width: int | None) -> list[str]:
    if set(survey.performances) == {""}:
        return indented(["composers unknown: no metadata named them"])
    ordered = [composer for composer, _ in survey.notes.most_common()]
    groups = [(composer or "(unknown)", [composer]) for composer in ordered[:_MAX_COMPOSERS]]
    if others := ordered[_MAX_COMPOSERS:]:
        groups.append((others[0] or "(unknown)" if len(others) == 1 else f"{len(others):,} others", others))
    rows = []
    for name, group in groups:
        splits = sum((survey.performances[composer] for composer in group), Counter())
        notes = sum(survey.notes[composer] for composer in group)
        hours = sum(survey.seconds[composer] for composer in group) / 3600
        counts = [f"{count:,}" for count in (splits.total(), *(splits[split] for split in SPLITS), notes)]
        rows.append((name, *counts, f"{hours:,.2f}"))
    return format_table(("composer", "performances", *SPLITS, "notes", "hours"), rows, "<>>>>>>", width)


def _list_rejected(manifest: Manifest, width: int | None) -> list[str]:
    """Returns the first files of each reason, the most frequent reason first."""
    path = storage.join(manifest.directory, REJECTED_NAME)
    examples: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for number, line in enumerate(storage.read_bytes(path).splitlines(), start=1):
        rejection = _Rejection.parse(line, f"{path}, line {number}")
        examples[rejection.reason].append(("", f"{rejection.path}: {rejection.detail}"))
    lines = []
    for reason, count in sorted(manifest.rejected.items(), key=lambda item: (-item[1], item[0])):
        shown = examples[reason][:_EXAMPLES]
        such_as = ", such as" if len(shown) < count else ""
        lines += ["", f"rejected as {reason}: {counted(count, 'file')}{such_as}", *format_facts(shown, width)]
    return lines[1:]
