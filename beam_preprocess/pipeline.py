"""The assembly of the pipeline, and nothing else."""

import apache_beam as beam

from beam_preprocess import transforms
from beam_preprocess.shard_writer import Plan, ShardRange
from beam_preprocess.shards import ShardWriter


def build(
    pipeline: beam.Pipeline, *, plan: Plan, shards: list[ShardRange], writer: ShardWriter, processes: int = 1
) -> None:
    """Adds the whole way from a list of files to a finished dataset.

    Shards are handed out, not notes: nothing large is shuffled, and each shard is decoded and written by one call.

    Args:
        pipeline: the pipeline to add to.
        plan: what the dataset must account for.
        shards: where the list of each shard's files is.
        writer: writes a shard.
        processes: child processes that share all shards; 1 leaves sharing them to the runner.
    """
    elements = [shards] if processes > 1 else [[shard] for shard in shards]
    (
        pipeline
        # Hands them out afresh where there are several.
        | "Shards" >> beam.Create(elements)
        | "WriteShards" >> beam.ParDo(transforms.WriteShards(writer, processes=processes))
        | "AllReports" >> beam.combiners.ToList()
        | "Publish" >> beam.ParDo(transforms.Publish(plan))
    )
