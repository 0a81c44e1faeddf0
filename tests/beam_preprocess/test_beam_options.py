import logging
import os
import re
import threading

import pytest

from beam_preprocess.beam_options import pipeline_options


@pytest.mark.parametrize(
    ("beam_args", "packed"),
    [
        (["--runner=FlinkRunner", "--flink_master=flink:8081", "--an_option_of_flinks=1"], True),
        (["--runner=SparkRunner", "--spark_master_url=spark://spark:7077"], True),
        (["--runner=PortableRunner", "--job_endpoint=localhost:8099", "--environment_type=DOCKER"], True),
        (["--runner=PortableRunner", "--job_endpoint=localhost:8099", "--environment_type=LOOPBACK"], False),
        (["--runner=PortableRunner", "--job_endpoint=localhost:8099", "--environment_type=EXTERNAL"], False),
        (["--direct_num_workers=2"], False),
    ],
)
def test_remote_workers_get_the_project_unless_they_have_it(beam_args, packed, capfd):
    from apache_beam.options.pipeline_options import SetupOptions

    with pipeline_options(beam_args) as options:
        packages = options.view_as(SetupOptions).extra_packages or []
        assert len(packages) == packed
        assert all(os.path.isabs(path) and os.path.getsize(path) for path in packages)
    assert not any(map(os.path.exists, packages))
    # What packs says a lot.
    assert not re.search("sdist|build|running", "".join(capfd.readouterr()))


def test_beams_options_leave_the_logging_of_a_program_alone(caplog, monkeypatch):
    """Both that of other threads meanwhile and its own levels afterwards."""
    beam = logging.getLogger("apache_beam")
    monkeypatch.setattr(logging.root.manager, "disable", logging.DEBUG)
    levels = beam.level, logging.root.manager.disable
    with pipeline_options(["--direct_num_workers=1"]):
        thread = threading.Thread(target=logging.getLogger("a.program").warning, args=["of another thread"])
        thread.start()
        thread.join()
        assert not beam.isEnabledFor(logging.ERROR)
    assert "of another thread" in caplog.messages
    assert (beam.level, logging.root.manager.disable) == levels


def test_a_message_of_beam_without_a_logger_of_its_own_is_quiet_during_the_call(caplog):
    def warn(path, text):
        logging.getLogger().handle(logging.LogRecord("root", logging.WARNING, path, 1, text, (), None))

    with pipeline_options(["--direct_num_workers=1"]):
        warn("/lib/apache_beam/io/gcp/clients.py", "apitools not found")
        warn("/home/me/program.py", "of the program")
    warn("/lib/apache_beam/io/gcp/clients.py", "afterwards")
    assert caplog.messages[-2:] == ["of the program", "afterwards"]
    assert "apitools not found" not in caplog.messages
