"""The closing lines of a run."""

from sostenuto.data.manifest import REJECTED_NAME, Manifest
from sostenuto.text import counted, table


def summarize(manifest: Manifest, *, seconds: float, is_new: bool = True) -> str:
    """Returns the sizes of the splits, what was left out, and the directory; `is_new` unless the dataset existed."""
    rows = [
        (name, f"{split.performances:,}", f"{split.notes:,}", f"{split.seconds / 3600:,.2f}")
        for name, split in manifest.splits.items()
    ]
    lines = table(("split", "performances", "notes", "hours"), rows, align="<>>>", width=None)
    if rejected := manifest.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        lines.append(f"rejected {counted(sum(rejected.values()), 'file')} ({reasons}): see {REJECTED_NAME}")
    source = manifest.source
    lines.append(f"metadata: {source['metadata'] or 'none, so the splits follow --split_fractions'}")
    if source["unlisted"]:
        lines.append(f"left out {counted(source['unlisted'], 'file')} that {source['metadata']} does not list")
    for extension, count in source.get("other_formats", {}).items():
        lines.append(f"left out {counted(count, 'file')} that end in {extension}: only .mid and .midi are read")
    if pieces := source["straddling_pieces"]:
        lines.append(
            f"{source['metadata']} puts {counted(len(pieces), 'piece')} into more than one split, so "
            f"sostenuto evaluate also scores without them: {'; '.join(pieces)}"
        )
    lines += [f"left out {counted(dropped, noun)}" for dropped, noun in manifest.left_out() if dropped]
    if warning := manifest.size_warning():
        lines.append(f"warning: {warning}")
    lines.append(f"{'wrote' if is_new else 'checked'} {manifest.directory} in {seconds:.1f} s")
    return "\n".join(lines)
