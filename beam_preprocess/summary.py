"""What a user wants to know when a dataset is done."""

from notes.manifest import SPLITS, Manifest


def summarize(manifest: Manifest, *, unlisted: int, seconds: float) -> str:
    """Returns the closing lines of a run: each split, what was left out, and where the dataset is.

    Args:
        manifest: of the finished dataset.
        unlisted: number of files that the metadata CSV does not list.
        seconds: how long it took.
    """
    lines = [f"{'split':<12}{'performances':>14}{'notes':>14}{'hours':>10}"]
    splits, statistics = manifest.document["splits"], manifest.document["statistics"]
    for split in SPLITS:
        entry = splits[split]
        lines.append(f"{split:<12}{entry['performances']:>14,}{entry['notes']:>14,}{entry['seconds'] / 3600:>10.2f}")
    rejected = manifest.document["rejected"]
    if rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        lines.append(f"refused {sum(rejected.values())} files ({reasons}): see rejected.jsonl")
    if unlisted:
        lines.append(f"left out {unlisted} files that {manifest.document['source']['metadata']} does not list")
    for key, what in (("zero_length_dropped", "notes of zero length"), ("drums_dropped", "drum notes")):
        dropped = sum(statistics[split][key] for split in SPLITS)
        if dropped:
            lines.append(f"left out {dropped:,} {what}")
    lines.append(f"wrote {manifest.directory} in {seconds:.1f} s")
    return "\n".join(lines)
