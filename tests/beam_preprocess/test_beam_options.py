import os

import pytest

from beam_preprocess.beam_options import pipeline_options


@pytest.mark.parametrize(
    ("beam_args", "packed"),
    [
        (["--runner=FlinkRunner", "--flink_master=flink:8081", "--an_option_of_flinks=1"], True),
        (["--runner=SparkRunner", "--spark_master_url=spark://spark:7077"], True),
        (["--runner=PortableRunner", "--job_endpoint=localhost:8099", "--environment_type=LOOPBACK"], False),
        (["--direct_num_workers=2"], False),
    ],
)
def test_remote_workers_get_the_project(beam_args, packed):
    from apache_beam.options.pipeline_options import SetupOptions

    with pipeline_options(beam_args) as options:
        setup_file = options.view_as(SetupOptions).setup_file
        assert (setup_file is not None) == packed
        assert not packed or (os.path.isabs(setup_file) and os.path.isfile(setup_file))
    assert not packed or not os.path.exists(setup_file)
