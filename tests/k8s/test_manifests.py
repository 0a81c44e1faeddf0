"""The manifests without a cluster: they render, fit the schemas, fit together, and say what our commands understand."""

import copy
import json
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import pytest
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet
from pydantic import ValidationError

from sostenuto import cli
from sostenuto.cli import EXIT_TRY_AGAIN
from tests.k8s.checks import config_of, is_allowed, problems
from tests.k8s.cluster import Object, all_pods, arguments, by_name, edited, kubectl, pods_of, render
from tests.k8s.conftest import VARIANTS
from tests.processes import REPOSITORY
from trainer.config import FIELDS, Config
from trainer.distribution.cluster import resolve as resolve_cluster
from trainer.presets import preset
from tuning.roles import resolve_role
from tuning.search import EXIT_NO_WORKER

# The oldest version that has all that the manifests use (successPolicy), and the newest that the schemas know.
VERSIONS = ("1.31", "1.37")

# What no schema of Kubernetes itself describes.
CUSTOM = {("jobset.x-k8s.io/v1alpha2", "JobSet"), ("kueue.x-k8s.io/v1beta2", "LocalQueue")}

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def validate(one: Object, versions=VERSIONS[:1]) -> None:
    """Raises unless an object is exactly what the schemas of those versions of Kubernetes say."""
    if (one["apiVersion"], one["kind"]) not in CUSTOM:
        for version in versions:
            kubernetes_validate.validate(one, version, strict=True)
    elif one["kind"] == "JobSet":
        written = JobsetV1alpha2JobSet.from_dict(one).to_dict()
        # The model drops what it does not know, so that only a comparison shows it.
        assert _without_jobs(written) == _without_jobs(one)
        for replicated in one["spec"]["replicatedJobs"]:
            job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": replicated["name"]}}
            validate({**job, "spec": replicated["template"]["spec"]}, versions)


def _without_jobs(jobset: Object) -> Object:
    replicated = [{**one, "template": set(one["template"])} for one in jobset["spec"]["replicatedJobs"]]
    return {**jobset, "spec": {**jobset["spec"], "replicatedJobs": replicated}}


@every_variant
def test_every_object_is_what_the_schemas_say(renderings, variant):
    for one in renderings[variant]:
        validate(one, VERSIONS)


@every_variant
def test_the_objects_fit_together(renderings, variant):
    assert problems(renderings[variant]) == []


def test_all_that_is_there_is_in_a_variant(renderings):
    """A job or a component that no overlay names would not be checked."""
    kinds = {(one["kind"], one["metadata"]["name"]) for objects in renderings.values() for one in objects}
    jobs = {name for kind, name in kinds if kind == "Job"}
    assert jobs == {"preprocess", "train", "train-many", "tune-chief", "tune-worker", "tensorboard"}
    assert {name for kind, name in kinds if kind == "JobSet"} == {"train-many", "tune"}
    assert {"LocalQueue", "PodDisruptionBudget"} <= {kind for kind, _ in kinds}
    full = [pods for name in VARIANTS if "components" in name for pods in all_pods(renderings[name])]
    assert any("cloud.google.com/gke-spot" in pods.spec.get("nodeSelector", {}) for pods in full)
    assert any(volume.get("csi") for pods in full for volume in pods.spec["volumes"])


def test_components_may_stand_in_any_order(renderings, tmp_path):
    """The reverse order has every pair of components the other way round."""
    variant = "gke-h100, JobSets, all components"
    overlay, edits = VARIANTS[variant]
    path = pathlib.Path(edited(tmp_path, overlay, **edits)) / "kustomization.yaml"
    text = path.read_text()
    (block,) = re.findall(r"(?<=^components:\n)(?:  - .*\n)+", text, re.MULTILINE)
    lines = block.splitlines(keepends=True)
    assert len(lines) == 6
    path.write_text(text.replace(block, "".join(reversed(lines))))
    for one in render(str(path.parent)):
        expected = by_name(renderings[variant], one["kind"], one["metadata"]["name"])
        # The order of flags and volumes means nothing.
        assert _sorted(one) == _sorted(expected)


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sorted(one) for key, one in value.items()}
    return sorted(map(str, map(_sorted, value))) if isinstance(value, list) else value


def test_kueue_with_chief_and_workers_as_two_workloads_is_refused(tmp_path):
    overlay = edited(tmp_path, "gke-l4", components=["kueue"])
    process = subprocess.run([kubectl(), "kustomize", overlay], capture_output=True, text=True, check=False)
    assert process.returncode != 0
    assert "With Kueue use jobset/tune in place of base/tune" in process.stderr


# Each line breaks one thing: (variant, kind, name, path, value, words of what must be found). The value None removes.
PODS = "spec.template.spec"
MAIN = f"{PODS}.containers.0"
WORKERS = "spec.replicatedJobs.1.template"
IDENTITY = "iam~gke~io/gcp-service-account"
BROKEN = [
    ("local", "Job", "train", f"{PODS}.restartPolicy", "OnFailure", "podFailurePolicy needs restartPolicy Never"),
    ("local", "Job", "train", "spec.podReplacementPolicy", "TerminatingOrFailed", "needs podReplacementPolicy Failed"),
    ("local", "Job", "train", "spec.activeDeadlineSeconds", None, "train: no activeDeadlineSeconds"),
    ("local", "Job", "train", "spec.ttlSecondsAfterFinished", None, "train: no ttlSecondsAfterFinished"),
    ("local", "Job", "tune-worker", "spec.completionMode", None, "successPolicy needs completionMode Indexed"),
    ("local, many nodes", "Job", "train-many", "spec.parallelism", 1, "1 of 2 pods at once"),
    ("local, JobSets", "JobSet", "tune", "spec.ttlSecondsAfterFinished", None, "tune: no ttlSecondsAfterFinished"),
    ("local, JobSets", "JobSet", "tune", f"{WORKERS}.spec.ttlSecondsAfterFinished", 60, "a TTL of its own"),
    ("local, JobSets", "JobSet", "tune", "spec.replicatedJobs.0.name", "boss", "names chief, which is none"),
    ("local", "Job", "train", "spec.podFailurePolicy.rules.0", None, "the first rule is not that of DisruptionTarget"),
    ("local", "Job", "train", "spec.podFailurePolicy.rules.1", None, "exit status 75 leads to Count, expected Ignore"),
    ("local", "Job", "train", "spec.podFailurePolicy.rules.2", None, "exit status 2 leads to Count, expected FailJob"),
    (
        *("local", "Job", "train", "spec.podFailurePolicy.rules.1.onExitCodes.values", [71, 75, 143]),
        "exit status 71 leads to Ignore, expected Count",
    ),
    ("local", "Job", "train", f"{MAIN}.name", "main", "podFailurePolicy names train, which is no container"),
    (
        *("local", "Job", "train", "spec.podFailurePolicy.rules.2.onExitCodes.values", [2, 1]),
        "exit codes [2, 1]: expected in order",
    ),
    ("local", "Job", "train", f"{MAIN}.volumeMounts.0.name", "temp", "train/train: there is no volume temp"),
    ("local", "Job", "train", f"{PODS}.volumes.0.name", "unused", "volume unused is mounted nowhere"),
    ("local", "Job", "train", f"{PODS}.volumes.0", {"name": "tmp", "hostPath": {"path": "/"}}, "is a hostPath"),
    ("local", "Job", "train", f"{PODS}.volumes.0.emptyDir", {}, "volume tmp has no sizeLimit"),
    ("local", "PersistentVolumeClaim", "store", "metadata.name", "shop", "there is no PersistentVolumeClaim store"),
    ("local", "Job", "train", f"{MAIN}.image", "sostenuto", "expected a tag"),
    ("local", "Job", "train", f"{MAIN}.envFrom.0.configMapRef.name", "settings", "there is no ConfigMap settings"),
    ("local", "Job", "train", f"{MAIN}.args.2", "--data=$(STOER)/dataset", "/dataset: the variable is not declared"),
    (
        *("local", "Job", "train", f"{MAIN}.env"),
        [{"name": "HOME", "value": "$(PLACE)"}, {"name": "PLACE", "value": "/home/sostenuto"}],
        "HOME=$(PLACE): the variable is not declared before",
    ),
    ("local", "Job", "train", f"{MAIN}.resources.limits.memory", None, "no request or no limit of memory"),
    ("local", "Job", "train", f"{MAIN}.resources.requests.memory", "5Gi", "a request of 5Gi with a limit of 4Gi"),
    ("gke-l4", "Job", "train", f"{MAIN}.resources.limits.nvidia~com/gpu", "2", "a request of 1 with a limit of 2"),
    ("gke-l4", "Job", "train", f"{PODS}.nodeSelector", None, "GPUs without their type"),
    ("gke-l4", "ServiceAccount", "train", f"metadata.annotations.{IDENTITY}", "a@ACCOUNTS", "ACCOUNTS was not"),
    ("gke-l4", "NetworkPolicy", "google", "spec.egress.0", None, "lets pods reach 169.254.169.254:80"),
    ("gke-l4", "NetworkPolicy", "google", "spec.egress.1", None, "lets pods reach 142.250.74.42:443"),
    ("gke-l4", "NetworkPolicy", "google", "spec.egress.1.to.0.ipBlock.except", None, "reach 10.0.0.1:443, which is no"),
    ("local", "Job", "train", f"{PODS}.serviceAccountName", "default", "there is no ServiceAccount default"),
    ("local", "Job", "train", f"{PODS}.securityContext.runAsNonRoot", False, "train: may run as root"),
    ("local", "Job", "train", f"{PODS}.securityContext.seccompProfile", None, "train: no seccomp profile"),
    ("local", "Job", "train", f"{PODS}.automountServiceAccountToken", None, "is given a token"),
    ("local", "Job", "train", f"{PODS}.terminationGracePeriodSeconds", None, "no terminationGracePeriodSeconds"),
    ("local", "Job", "train", f"{MAIN}.securityContext.capabilities", None, "train/train: keeps privileges"),
    ("local", "Job", "train", f"{MAIN}.securityContext.readOnlyRootFilesystem", None, "its root is writable"),
    ("local", "Job", "train", f"{MAIN}.command", ["bash", "-c"], "has a command"),
    ("local", "Job", "train", f"{MAIN}.volumeMounts.0.mountPath", "/temp", "nothing is mounted at /tmp"),
    ("local", "Job", "train", f"{MAIN}.env.0.value", "/root", "nothing is mounted at /root"),
    ("local", "Job", "train", f"{PODS}.volumes.2.emptyDir.medium", None, "/dev/shm is not in memory"),
    ("local", "Job", "train", f"{PODS}.volumes.2.emptyDir.sizeLimit", "4Gi", "/dev/shm may take all memory"),
    ("local", "Service", "tune-chief", "spec.selector.role", "boss", "Service tune-chief: selects no pod"),
    ("local", "Service", "tune-chief", "spec.ports.0.targetPort", "oracle", "tune-chief has no port oracle"),
    ("local", "Service", "tune-chief", "spec.ports.0.port", 8001, "--chief_address=tune-chief:8000 leads to no chief"),
    ("local", "Service", "tune-chief", "metadata.name", "chief", "--chief_address=tune-chief:8000 leads to no chief"),
    ("local", "Job", "tune-chief", f"{MAIN}.ports.0.containerPort", 9000, "listens at port 8000, declares"),
    ("local, JobSets", "JobSet", "tune", "metadata.name", "search", "--chief_address=tune-chief-0-0.tune:8000 leads"),
    ("local, many nodes", "Job", "train-many", f"{PODS}.subdomain", "workers", "workers is no headless Service"),
    ("local, many nodes", "Service", "train-many", "spec.clusterIP", None, "train-many is no headless Service"),
    ("local, many nodes", "Service", "train-many", "spec.publishNotReadyAddresses", False, "is no headless Service"),
    (
        *("local, many nodes", "Service", "train-many", "spec.selector"),
        {"app.kubernetes.io/component": "train"},
        "the Service of its subdomain does not select it",
    ),
    ("local, many nodes", "Job", "train-many", "spec.completions", 3, "expected train-many-0.train-many:2222,"),
    ("local, many nodes", "Job", "train-many", f"{MAIN}.ports.0.containerPort", 2223, "train-many-1.train-many:2223"),
    ("local, JobSets", "JobSet", "train-many", "spec.replicatedJobs.0.name", "node", "train-many-node-0-0.train-many"),
    ("local, many nodes", "NetworkPolicy", "train-many", "spec.egress", [], "lets workers reach each other"),
    ("local", "NetworkPolicy", "tune-chief", "spec.ingress.0.ports.0.port", 80, "no network policy lets it reach the"),
    ("local", "NetworkPolicy", "tune-worker", "spec.policyTypes", ["Ingress"], "no network policy lets it reach the"),
    (
        *("local", "NetworkPolicy", "tune-chief", "spec.podSelector.matchLabels.role", "boss"),
        "'role': 'boss'}} selects no pod",
    ),
    ("local", "NetworkPolicy", "default-deny", "spec.policyTypes", ["Ingress"], "no network policy denies everything"),
    ("local", "NetworkPolicy", "dns", "spec.egress.0.ports.0.port", 54, "no network policy allows DNS"),
    ("local", "NetworkPolicy", "tune-chief", "spec.ingress.0.from", None, "a rule for everybody"),
    ("local", "Job", "train", "metadata.namespace", "default", "namespace default, expected sostenuto"),
    ("local", "Job", "train", "metadata.labels", {}, "no label app.kubernetes.io/component"),
    ("local", "Job", "train", "metadata.name", "preprocess", "Job preprocess: is there twice"),
    (
        *("local", "Namespace", "sostenuto", "metadata.labels.pod-security~kubernetes~io/enforce", "baseline"),
        "does not enforce the restricted Pod Security level",
    ),
    (
        *("gke-l4, many nodes, components", "PodDisruptionBudget", "train-many", "spec.minAvailable", 1),
        "minAvailable 1 of 2 pods",
    ),
]  # fmt: skip


def broken(objects: list[Object], kind: str, name: str, path: str, value) -> list[Object]:
    """A copy with one thing changed; ~ stands for a dot within a key, and None removes."""
    objects = copy.deepcopy(objects)
    target = by_name(objects, kind, name)
    *parents, last = [int(key) if key.isdigit() else key.replace("~", ".") for key in path.split(".")]
    for key in parents:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return objects


@pytest.mark.parametrize(("variant", "kind", "name", "path", "value", "words"), BROKEN)
def test_what_does_not_fit_is_found(renderings, variant, kind, name, path, value, words):
    found = problems(broken(renderings[variant], kind, name, path, value))
    assert any(words in line for line in found), found


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Job", "preprocess", "spec.backofLimit", 3),
        ("Job", "preprocess", "kind", "Jobb"),
        ("JobSet", "tune", "spec.succesPolicy", {}),
        ("JobSet", "tune", f"{WORKERS}.spec.backofLimit", 3),
        ("JobSet", "tune", "spec.replicatedJobs.0.name", 1),
    ],
)
def test_what_the_schemas_do_not_know_is_refused(renderings, kind, name, path, value):
    with pytest.raises(
        (ValidationError, kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError, AssertionError)
    ):
        for one in broken(renderings["local, JobSets"], kind, name, path, value):
            validate(one)


def test_a_jobset_runs_the_pods_of_the_jobs(renderings):
    """Except the pods' host names, and what JobSet sets itself."""
    for component in ("local, many nodes", "local, JobSets"), ("local", "local, JobSets"):
        jobs, sets = (renderings[name] for name in component)
        for pods in all_pods(sets):
            if not pods.jobset or (pods.jobset == "train-many") != ("many nodes" in component[0]):
                continue
            kind = pods.name.removeprefix("tune-").removesuffix("-0")
            other = pods_of(jobs, f"tune-{kind}" if pods.jobset == "tune" else "train-many")
            theirs, ours = copy.deepcopy(other.spec), copy.deepcopy(pods.spec)
            theirs.pop("subdomain", None)
            for spec, host in ((theirs, "tune-chief:"), (ours, "tune-chief-0-0.tune:")):
                (container,) = spec["containers"]
                container["args"] = [
                    argument.replace(host, "CHIEF:")
                    for argument in container["args"]
                    if not argument.startswith("--workers=")
                ]
            assert ours == theirs
            assert pods.labels == other.labels
            rest = {key: value for key, value in other.job.items() if key != "ttlSecondsAfterFinished"}
            assert {**pods.job, "template": None} == {**rest, "template": None}


def test_pods_accept_only_intended_connections(renderings):
    objects = renderings["gke-l4, many nodes, components"]
    pods = {one.name: one for one in all_pods(objects)}
    ways = {
        (source, target, port)
        for source in pods
        for target in pods
        for port in (80, 2222, 6006, 8000)
        if is_allowed(objects, pods[source], pods[target], port)
    }
    among_workers = {("train-many", "train-many", port) for port in (80, 2222, 6006, 8000)}
    assert ways == among_workers | {("tune-worker", "tune-chief", 8000)}


def test_the_failure_policies_know_our_exit_statuses(renderings):
    train, chief = pods_of(renderings["local"], "train"), pods_of(renderings["local"], "tune-chief")
    assert train.action(cli.EXIT_OK) == chief.action(cli.EXIT_OK) == "Complete"
    assert train.action(cli.EXIT_BAD_INPUT) == chief.action(cli.EXIT_BAD_INPUT) == "FailJob"
    assert train.action(EXIT_TRY_AGAIN) == chief.action(EXIT_NO_WORKER) == "Ignore"


# Parses one command line after another with flags that are defined afresh, as each process does.
PARSE = """
import json, runpy, sys
from absl import flags
for number, (module, *arguments) in enumerate(json.load(sys.stdin)):
    runpy.run_module(f"{module}.__main__", run_name=f"command{number}")
    left = flags.FLAGS([module, *arguments])[1:]
    assert not left, left
    print(json.dumps({name: flags.FLAGS[name].value for name in flags.FLAGS if flags.FLAGS[name].present}))
    for name in list(flags.FLAGS):
        delattr(flags.FLAGS, name)
"""


def parse(lines: list[list[str]]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(lines),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def command_lines(objects: list[Object]) -> list[list[str]]:
    """What every pod of ours is given after -m, without what is Beam's."""
    lines = []
    for pods in all_pods(objects):
        option, module, *given = arguments(pods, pods.container, objects) if pods.job else ["-c", ""]
        if module in ("beam_preprocess", "trainer", "tuning"):
            assert option == "-m"
            lines.append([module, *(given[: given.index("--")] if "--" in given else given)])
    return lines


def test_every_command_line_is_understood(renderings):
    lines = [line for objects in renderings.values() for line in command_lines(objects)]
    assert {line[0] for line in lines} == {"beam_preprocess", "trainer", "tuning"}
    process = parse(lines)
    assert process.returncode == 0, process.stderr
    for line, parsed in zip(lines, map(json.loads, process.stdout.splitlines()), strict=True):
        assert len(parsed) == len(line) - 1, line
    assert "Unknown command line flag" in parse([["trainer", "--prest=base"]]).stderr


def test_beam_understands_what_it_is_given(renderings):
    from apache_beam.options.pipeline_options import PipelineOptions

    pods = pods_of(renderings["gke-l4"], "preprocess")
    given = arguments(pods, pods.container, renderings["gke-l4"])
    options = PipelineOptions(given[given.index("--") + 1 :]).get_all_options(drop_default=True)
    assert options == {
        "runner": "DataflowRunner",
        "project": "my-project",
        "region": "us-central1",
        "temp_location": "gs://my-bucket/temp",
        "service_account_email": "sostenuto-dataflow@my-project.iam.gserviceaccount.com",
    }


@pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")
def test_tensorboard_understands_what_it_is_given(renderings):
    from tensorboard import program
    from tensorboard.plugins.core import core_plugin

    pods = pods_of(renderings["gke-l4"], "tensorboard")
    _, module, *given = arguments(pods, pods.container, renderings["gke-l4"])
    assert module == "tensorboard.main"
    board = program.TensorBoard(plugins=[core_plugin.CorePluginLoader()])
    board.configure((module, *given))
    assert (board.flags.logdir, board.flags.host, board.flags.port) == ("gs://my-bucket/runs", "localhost", 6006)
    assert pods.ports == {"http": 6006}


@pytest.mark.parametrize("variant", ["local, many nodes", "local, JobSets"])
def test_each_pod_knows_which_it_is(renderings, variant):
    objects = renderings[variant]
    for pods in all_pods(objects):
        given = dict(
            argument[2:].split("=", 1)
            for argument in (arguments(pods, pods.container, objects) if pods.job else [])
            if argument.startswith("--") and "=" in argument
        )
        for index in range(pods.count):
            environment = {"JOB_COMPLETION_INDEX": str(index)}
            if "workers" in given:
                found = resolve_cluster(given["workers"], None, environment)
                assert found is not None
                assert (found.index, found.size) == (index, pods.count)
            if "role" in given:
                role = resolve_role(given["role"], given["chief_address"], None, environment)
                assert role.worker == ("" if given["role"] == "chief" else f"tuner{index}")


def test_all_pods_of_an_overlay_share_their_settings(renderings):
    """STORE and the like stand in one file; each is used, and nothing else is."""
    for variant in VARIANTS:
        objects = renderings[variant]
        given = " ".join(argument for pods in all_pods(objects) for one in pods.containers for argument in one["args"])
        replaced = {"ACCELERATOR"} | {
            f"{job}_{what}" for job in ("TRAIN", "TUNE") for what in ("GPUS", "CPUS", "MEMORY")
        }
        for name in config_of(objects)["data"].keys() - replaced:
            assert f"$({name})" in given, name


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("gke")])
def test_each_gpu_gets_a_share_of_the_batch_in_tf32(renderings, variant):
    objects = renderings[variant]
    training = [pods for pods in all_pods(objects) if "trainer" in pods.container["args"]]
    assert training
    for pods in training:
        config = _trained_config(arguments(pods, pods.container, objects))
        gpus = pods.count * int(pods.container["resources"]["limits"]["nvidia.com/gpu"])
        assert config.precision == "float32"
        assert config.batch_size % gpus == 0
        assert config.batch_size / gpus >= 16


def test_eight_gpus_follow_the_square_root_rule(renderings):
    """The learning rate grows with the root of the batch; what is counted in train_steps spans as many notes."""
    one, eight = (
        _trained_config(arguments(pods, pods.container, objects))
        for objects in (renderings["gke-l4"], renderings["gke-h100"])
        for pods in [pods_of(objects, "train")]
    )
    factor = eight.batch_size / one.batch_size
    assert factor == 4
    assert eight.learning_rate == one.learning_rate * factor**0.5
    assert eight.weight_decay == one.weight_decay * factor**0.5
    assert eight.warmup_steps * factor == one.warmup_steps
    assert eight.evaluate_every * factor == one.evaluate_every
    assert (1 - eight.ema) == pytest.approx((1 - one.ema) * factor)
    changed = ("batch_size", "learning_rate", "weight_decay", "warmup_steps", "evaluate_every", "ema")
    assert eight.replace(**{name: getattr(one, name) for name in changed}) == one


def _trained_config(arguments: list[str]) -> Config:
    """The config of a training's arguments."""
    given = dict(argument[2:].split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
    config = preset(given["preset"])
    types = {name: type(getattr(config, name)) for name in FIELDS}
    return config.replace(**{name: types[name](value) for name, value in given.items() if name in FIELDS})
