"""What a user wants to know when a dataset is done."""

from sostenuto.data.manifest import SPLITS, Manifest


def summarize(manifest: Manifest, *, seconds: float) -> str:
    """Returns the closing lines of a run: each split, what was left out, and where the dataset is.

    Args:
        manifest: of the finished dataset.
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
        lines.append(f"rejected {sum(rejected.values())} files ({reasons}): see rejected.jsonl")
    source = manifest.document["source"]
    if source["unlisted"]:
        lines.append(f"left out {source['unlisted']} files that {source['metadata']} does not list")
    if source["straddling_pieces"]:
        lines.append(
            f"{source['metadata']} puts {source['straddling_pieces']} pieces into more than one split: "
            "scores on music that training has heard are too good"
        )
    for key, what in (("zero_length_dropped", "notes of zero length"), ("drums_dropped", "drum notes")):
        dropped = sum(statistics[split][key] for split in SPLITS)
        if dropped:
            lines.append(f"left out {dropped:,} {what}")
    lines.append(f"{manifest.directory} is there, after {seconds:.1f} s")
    return "\n".join(lines)
