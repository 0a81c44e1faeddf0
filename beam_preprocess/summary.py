"""What a user wants to know when a dataset is done."""

from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.text import counted


def summarize(manifest: Manifest, *, seconds: float, is_new: bool = True) -> str:
    """Returns the closing lines of a run: each split, what was left out, and where the dataset is.

    Args:
        manifest: of the finished dataset.
        seconds: how long it took.
        is_new: the dataset was written, not found.
    """
    lines = [f"{'split':<12}{'performances':>14}{'notes':>14}{'hours':>10}"]
    for split in SPLITS:
        entry = manifest.splits[split]
        lines.append(f"{split:<12}{entry.performances:>14,}{entry.notes:>14,}{entry.seconds / 3600:>10.2f}")
    rejected = manifest.rejected
    if rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        lines.append(f"rejected {counted(sum(rejected.values()), 'file')} ({reasons}): see rejected.jsonl")
    source = manifest.source
    if source["unlisted"]:
        lines.append(f"left out {counted(source['unlisted'], 'file')} that {source['metadata']} does not list")
    if source["straddling_pieces"]:
        lines.append(
            f"{source['metadata']} puts {counted(source['straddling_pieces'], 'piece')} into more than one split: "
            "scores on music that training has heard are too good"
        )
    for key, what in (("zero_length_dropped", "note of zero length"), ("drums_dropped", "drum note")):
        dropped = sum(getattr(manifest.statistics[split], key) for split in SPLITS)
        if dropped:
            lines.append(f"left out {counted(dropped, what)}")
    lines.append(f"{'wrote' if is_new else 'checked'} {manifest.directory} in {seconds:.1f} s")
    return "\n".join(lines)
