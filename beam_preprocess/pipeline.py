"""The assembly of the pipeline, and nothing else."""

import apache_beam as beam

from beam_preprocess import transforms
from beam_preprocess.corpus import CorpusFile
from beam_preprocess.writer import Plan
from notes.midi import Sustain


def build(
    pipeline: beam.Pipeline, *, plan: Plan, shards: dict[str, list[CorpusFile]], archive: str | None, sustain: Sustain
) -> None:
    """Adds the whole way from a list of files to a finished dataset.

    Paths are grouped, not notes: nothing large is shuffled, and each shard is decoded and written by one call.

    Args:
        pipeline: the pipeline to add to.
        plan: what the dataset must account for.
        shards: the files of each shard, by its name.
        archive: the zip file that holds the files, or None.
        sustain: what the sustain pedal does to durations.
    """
    files = [(name, file) for name, members in shards.items() for file in members]
    write_shard = transforms.WriteShard(archive=archive, output=plan.output, sustain=sustain)
    (
        pipeline
        | "Files" >> beam.Create(files)
        | "GroupByShard" >> beam.GroupByKey()
        | "WriteShards" >> beam.ParDo(write_shard)
        | "AllReports" >> beam.combiners.ToList()
        | "Publish" >> beam.ParDo(transforms.Publish(plan))
    )
