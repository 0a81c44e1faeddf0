"""What no schema says: whether the objects of an overlay fit together, and keep the rules of this project.

Each check takes all objects and yields one line for each thing that is wrong.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

from tests.k8s.cluster import Object, Pods, all_pods, arguments, by_name, environment

NAMESPACE = "sostenuto"
CLUSTER_SCOPED = {"Namespace"}
Check = Callable[[list[Object]], Iterator[str]]

_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{unit}i": 1024.0**power for power, unit in enumerate("KMGT", 1)
}
_RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"),
}


def problems(objects: list[Object]) -> list[str]:
    """All that the checks find."""
    return [line for check in CHECKS for line in check(objects)]


def quantity(text: str) -> float:
    """A quantity of Kubernetes as a number."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert match, text
    return float(match[1]) * _UNITS[match[2]]


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector selects; the empty one selects all."""
    assert not selector.keys() - {"matchLabels", "matchExpressions"}, selector
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _of(objects: list[Object], kind: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def names(objects: list[Object]) -> Iterator[str]:
    """Each object once, in the namespace, which exists, and with the labels that select the parts to apply."""
    seen = set()
    for one in objects:
        kind, metadata = one["kind"], one["metadata"]
        name = f"{kind} {metadata['name']}"
        if name in seen:
            yield f"{name}: is there twice"
        seen.add(name)
        expected = None if kind in CLUSTER_SCOPED else NAMESPACE
        if metadata.get("namespace") != expected:
            yield f"{name}: namespace {metadata.get('namespace')}, expected {expected}"
        for label in ("app.kubernetes.io/name", "app.kubernetes.io/component"):
            if label not in metadata.get("labels", {}):
                yield f"{name}: no label {label}"
    namespace = _of(objects, "Namespace").get(NAMESPACE, {"metadata": {}})
    if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce the restricted Pod Security level"


def jobs(objects: list[Object]) -> Iterator[str]:
    """What the API server, or sense, asks of a Job."""
    for pods in all_pods(objects):
        job, name = pods.job, pods.name
        if not job:
            continue
        needed = {"activeDeadlineSeconds", "backoffLimit", "podFailurePolicy"}
        yield from (f"{name}: no {field}" for field in sorted(needed - job.keys()))
        if pods.jobset and "ttlSecondsAfterFinished" in job:
            yield f"{name}: a TTL of its own, after which JobSet would make it again"
        if not pods.jobset and "ttlSecondsAfterFinished" not in job:
            yield f"{name}: no ttlSecondsAfterFinished"
        if "podFailurePolicy" in job and pods.spec["restartPolicy"] != "Never":
            yield f"{name}: podFailurePolicy needs restartPolicy Never"
        if job.get("podReplacementPolicy") != "Failed":
            yield f"{name}: podFailurePolicy needs podReplacementPolicy Failed"
        indexed = job.get("completionMode") == "Indexed"
        if "successPolicy" in job and not indexed:
            yield f"{name}: successPolicy needs completionMode Indexed"
        if job.get("completions", 1) != job.get("parallelism", 1):
            yield f"{name}: {job.get('parallelism', 1)} of {job.get('completions', 1)} pods at once, expected all"
    for name, jobset in _of(objects, "JobSet").items():
        if "ttlSecondsAfterFinished" not in jobset["spec"]:
            yield f"{name}: no ttlSecondsAfterFinished"
        replicated = {one["name"] for one in jobset["spec"]["replicatedJobs"]}
        for target in jobset["spec"].get("successPolicy", {}).get("targetReplicatedJobs", []):
            if target not in replicated:
                yield f"{name}: successPolicy names {target}, which is none of its jobs"


def failure_policies(objects: list[Object]) -> Iterator[str]:
    """The contract of docs/exit-codes.md, and what the API server asks of the rules."""
    for pods in all_pods(objects):
        rules = pods.job.get("podFailurePolicy", {}).get("rules", [])
        if not rules:
            continue
        if rules[0].get("onPodConditions") != [{"type": "DisruptionTarget", "status": "True"}]:
            yield f"{pods.name}: the first rule is not that of DisruptionTarget"
        containers = {container["name"] for container in pods.containers}
        for rule in rules:
            if "onExitCodes" not in rule:
                continue
            codes = rule["onExitCodes"]
            if codes["containerName"] not in containers:
                yield f"{pods.name}: podFailurePolicy names {codes['containerName']}, which is no container"
            if codes["values"] != sorted(set(codes["values"])) or 0 in codes["values"]:
                yield f"{pods.name}: exit codes {codes['values']}: expected in order, each once, and not 0"
        expected = {1: "FailJob", 2: "FailJob", 71: "Count", 137: "Count"}
        if "tensorboard" not in pods.name:
            expected[143] = "Ignore"
            if "preprocess" not in pods.name:
                expected[75] = "Ignore"
        for status, action in expected.items():
            if pods.action(status) != action:
                yield f"{pods.name}: exit status {status} leads to {pods.action(status)}, expected {action}"
            if pods.action(status, disrupted=True) != "Ignore":
                yield f"{pods.name}: exit status {status} in an evicted pod is not ignored"


def containers(objects: list[Object]) -> Iterator[str]:
    """Images, volumes, variables and resources."""
    configs, claims = _of(objects, "ConfigMap"), _of(objects, "PersistentVolumeClaim")
    for pods in all_pods(objects):
        volumes = {volume["name"]: volume for volume in pods.spec.get("volumes", [])}
        mounted = {mount["name"] for one in pods.containers for mount in one["volumeMounts"]}
        yield from (f"{pods.name}: volume {name} is mounted nowhere" for name in sorted(volumes.keys() - mounted))
        for volume in volumes.values():
            (kind,) = volume.keys() - {"name"}
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in claims:
                yield f"{pods.name}: there is no PersistentVolumeClaim {claim}"
            if kind not in _RESTRICTED_VOLUMES:
                yield f"{pods.name}: volume {volume['name']} is a {kind}, which the restricted level forbids"
            if kind == "emptyDir" and "sizeLimit" not in volume[kind]:
                yield f"{pods.name}: volume {volume['name']} has no sizeLimit"
        for container in pods.containers:
            name = f"{pods.name}/{container['name']}"
            for mount in container["volumeMounts"]:
                if mount["name"] not in volumes:
                    yield f"{name}: there is no volume {mount['name']}"
            if not re.search(r":[^:/]+$", container["image"]) or container["image"].endswith(":latest"):
                yield f"{name}: image {container['image']}: expected a tag that an overlay gives"
            missing = [
                source["configMapRef"]["name"]
                for source in container.get("envFrom", [])
                if source["configMapRef"]["name"] not in configs
            ]
            yield from (f"{name}: there is no ConfigMap {one}" for one in missing)
            if not missing:
                given = environment(pods, container, objects)
                for text in [*(f"{key}={value}" for key, value in given.items()), *arguments(pods, container, objects)]:
                    if re.search(r"\$\([A-Z_]+\)", text):
                        yield f"{name}: {text}: the variable is not declared before"
            yield from (f"{name}: {line}" for line in _resources(container["resources"]))


def _resources(resources: Object) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for resource in ("cpu", "memory", "ephemeral-storage"):
        if resource not in requests or resource not in limits:
            yield f"no request or no limit of {resource}"
    for resource in sorted(requests.keys() | limits.keys()):
        request, limit = quantity(requests.get(resource, 0)), quantity(limits.get(resource, 0))
        if request > limit or ("/" in resource and request != limit):
            yield f"{resource}: a request of {requests.get(resource)} with a limit of {limits.get(resource)}"


def hardening(objects: list[Object]) -> Iterator[str]:
    """The restricted level, a read-only root, and the places that must be writable nevertheless."""
    for pods in all_pods(objects):
        spec, security = pods.spec, pods.spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            yield f"{pods.name}: may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pods.name}: no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False or spec.get("enableServiceLinks") is not False:
            yield f"{pods.name}: is given a token or variables of Services that it has no use for"
        if "terminationGracePeriodSeconds" not in spec:
            yield f"{pods.name}: no terminationGracePeriodSeconds"
        if pods.job and spec.get("serviceAccountName") not in _of(objects, "ServiceAccount"):
            yield f"{pods.name}: there is no ServiceAccount {spec.get('serviceAccountName')}"
        for container in pods.containers:
            name, own = f"{pods.name}/{container['name']}", container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name}: keeps privileges"
            if not own.get("readOnlyRootFilesystem"):
                yield f"{name}: its root is writable"
            if "command" in container:
                yield f"{name}: has a command, expected arguments of the image's entry point alone"
        if pods.job:
            yield from _writable(pods)


def _writable(pods: Pods) -> Iterator[str]:
    mounts = {mount["mountPath"]: mount["name"] for mount in pods.container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pods.spec["volumes"]}
    home = {variable["name"]: variable["value"] for variable in pods.container["env"]}.get("HOME")
    for place in ("/tmp", home, "/dev/shm"):
        if place not in mounts:
            yield f"{pods.name}: nothing is mounted at {place}"
    shm = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
    if shm.get("medium") != "Memory":
        yield f"{pods.name}: /dev/shm is not in memory"
    elif quantity(shm["sizeLimit"]) >= quantity(pods.container["resources"]["limits"].get("memory", 0)):
        yield f"{pods.name}: /dev/shm may take all memory of the container"


def services(objects: list[Object]) -> Iterator[str]:
    """Services select pods that have the ports; what a flag names can be found and reached under that name."""
    every = list(all_pods(objects))
    found = _of(objects, "Service")
    for name, service in found.items():
        spec = service["spec"]
        selected = [pods for pods in every if matches({"matchLabels": spec["selector"]}, pods.labels)]
        if not selected:
            yield f"Service {name}: selects no pod"
        for pods in selected:
            for port in spec["ports"]:
                if port["targetPort"] not in pods.ports:
                    yield f"Service {name}: {pods.name} has no port {port['targetPort']}"
    for pods in every:
        subdomain = pods.spec.get("subdomain")
        if not subdomain:
            continue
        spec = found[subdomain]["spec"] if subdomain in found else {}
        if spec.get("clusterIP") != "None" or not spec.get("publishNotReadyAddresses"):
            yield f"{pods.name}: subdomain {subdomain} is no headless Service that publishes pods before they are ready"
        elif not matches({"matchLabels": spec["selector"]}, pods.labels):
            yield f"{pods.name}: the Service of its subdomain does not select it"


def addresses(objects: list[Object]) -> Iterator[str]:
    """--workers and --chief_address name pods of this rendering, at ports that they have and may be reached at."""
    every = [pods for pods in all_pods(objects) if pods.job]
    for pods in every:
        flags = dict(re.findall(r"^--(workers|chief_address)=(.*)$", "\n".join(pods.container["args"]), re.MULTILINE))
        if "workers" in flags:
            expected = ",".join(f"{host}:{pods.ports.get('worker')}" for host in pods.hosts)
            if flags["workers"] != expected:
                yield f"{pods.name}: --workers={flags['workers']}, expected {expected}"
            if not is_allowed(objects, pods, pods, pods.ports.get("worker", 0)):
                yield f"{pods.name}: no network policy lets workers reach each other"
        host, _, port = flags.get("chief_address", "").rpartition(":")
        if host == "0.0.0.0" and pods.ports.get("study") != int(port):
            yield f"{pods.name}: listens at port {port}, declares {pods.ports}"
        elif host and host != "0.0.0.0":
            chiefs = [one for one in every if _answers(objects, host, int(port), one)]
            if not chiefs:
                yield f"{pods.name}: --chief_address={host}:{port} leads to no chief"
            for chief in chiefs:
                if not is_allowed(objects, pods, chief, chief.ports["study"]):
                    yield f"{pods.name}: no network policy lets it reach the chief"


def _answers(objects: list[Object], host: str, port: int, chief: Pods) -> bool:
    listens = f"--chief_address=0.0.0.0:{chief.ports.get('study')}" in chief.container["args"]
    if chief.jobset:
        return listens and host in chief.hosts and port == chief.ports["study"]
    service = _of(objects, "Service").get(host)
    return (
        service is not None
        and listens
        and matches({"matchLabels": service["spec"]["selector"]}, chief.labels)
        and {"name": "study", "port": port, "targetPort": "study"} in service["spec"]["ports"]
    )


def is_allowed(objects: list[Object], source: Pods, target: Pods, port: int) -> bool:
    """Whether the network policies let one pod open a TCP connection to another of the namespace."""
    directions = (("Egress", "egress", "to", source, target), ("Ingress", "ingress", "from", target, source))
    for kind, rules, peers, subject, peer in directions:
        policies = [
            policy["spec"]
            for policy in _of(objects, "NetworkPolicy").values()
            if kind in policy["spec"]["policyTypes"] and matches(policy["spec"]["podSelector"], subject.labels)
        ]
        if policies and not any(
            _has_port(rule, port) and any(_is_peer(one, peer) for one in rule.get(peers, [{"podSelector": {}}]))
            for policy in policies
            for rule in policy.get(rules, [])
        ):
            return False
    return True


def _has_port(rule: Object, port: int) -> bool:
    return "ports" not in rule or {"protocol": "TCP", "port": port} in rule["ports"]


def _is_peer(peer: Object, pods: Pods) -> bool:
    return "ipBlock" not in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], pods.labels)


def network_policies(objects: list[Object]) -> Iterator[str]:
    """All is forbidden at first; what a policy allows is for pods that exist; each pod may ask for names."""
    every = list(all_pods(objects))
    policies = _of(objects, "NetworkPolicy")
    deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if not any(policy["spec"] == deny for policy in policies.values()):
        yield "no network policy denies everything"
    for name, policy in policies.items():
        spec = policy["spec"]
        selectors = [spec["podSelector"]]
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            peers = [*rule.get("from", []), *rule.get("to", [])]
            if not peers:
                yield f"NetworkPolicy {name}: a rule for everybody"
            selectors += [peer["podSelector"] for peer in peers if "podSelector" in peer and len(peer) == 1]
        for selector in selectors:
            if not any(matches(selector, pods.labels) for pods in every):
                yield f"NetworkPolicy {name}: {selector} selects no pod"
    ports = [port for rule in policies.get("dns", {"spec": {"egress": []}})["spec"]["egress"] for port in rule["ports"]]
    if [(port["protocol"], port["port"]) for port in ports] != [("UDP", 53), ("TCP", 53)]:
        yield "no network policy allows DNS"


def google(objects: list[Object]) -> Iterator[str]:
    """Pods of a Google service account must reach the metadata server, and Google's APIs, and nothing private."""
    identity = "iam.gke.io/gcp-service-account"
    accounts = _of(objects, "ServiceAccount").values()
    if not any(identity in account["metadata"].get("annotations", {}) for account in accounts):
        return
    for account in accounts:
        email = account["metadata"].get("annotations", {}).get(identity, "")
        if not re.fullmatch(r"[a-z0-9-]+@[a-z0-9-]+\.iam\.gserviceaccount\.com", email):
            yield f"ServiceAccount {account['metadata']['name']}: {email!r} is no Google service account"
    allowed = {
        (ipaddress.ip_network(peer["ipBlock"]["cidr"]), tuple(peer["ipBlock"].get("except", ())), port["port"])
        for policy in _of(objects, "NetworkPolicy").values()
        if policy["spec"]["podSelector"] == {}
        for rule in policy["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
        for port in rule["ports"]
    }

    def reaches(address: str, port: int) -> bool:
        ip = ipaddress.ip_address(address)
        return any(
            ip in network and port == one and not any(ip in ipaddress.ip_network(cidr) for cidr in excepted)
            for network, excepted, one in allowed
        )

    for address, port in (("169.254.169.254", 80), ("169.254.169.252", 988), ("142.250.74.42", 443)):
        if not reaches(address, port):
            yield f"no network policy lets pods reach {address}:{port}"
    for address in ("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1"):
        if reaches(address, 443):
            yield f"a network policy lets pods reach {address}:443, which is no part of Google's APIs"


def disruption_budgets(objects: list[Object]) -> Iterator[str]:
    """Of a Job's pods, which have no scale, only a number of those that must stay may be given."""
    for name, budget in _of(objects, "PodDisruptionBudget").items():
        spec = budget["spec"]
        count = sum(pods.count for pods in all_pods(objects) if matches(spec["selector"], pods.labels))
        least = spec.get("minAvailable")
        if not isinstance(least, int) or (count and least != count):
            yield f"PodDisruptionBudget {name}: minAvailable {least} of {count} pods, expected all of them"


def settings(objects: list[Object]) -> Iterator[str]:
    """Nothing is left of what stands in the manifests until settings take its place."""
    for one in objects:
        if one["kind"] != "ConfigMap" and (left := re.search(r"\b(ACCOUNTS|ACCELERATOR|GPUS|BUCKET)\b", _plain(one))):
            yield f"{one['kind']} {one['metadata']['name']}: {left[1]} was not replaced"
    if len([name for name in _of(objects, "ConfigMap") if re.fullmatch("settings-[a-z0-9]{10}", name)]) != 1:
        yield "expected one ConfigMap of settings, named by its content"
    for pods in all_pods(objects):
        gpus = pods.container["resources"].get("limits", {}).get("nvidia.com/gpu")
        if bool(gpus) != ("cloud.google.com/gke-accelerator" in pods.spec.get("nodeSelector", {})):
            yield f"{pods.name}: GPUs without their type, or a type without GPUs"


def _plain(one: Object) -> str:
    # Variables of a container are no settings that were forgotten.
    return re.sub(r"\$\([A-Z_]+\)", "", str(one))


CHECKS: tuple[Check, ...] = (
    names, jobs, failure_policies, containers, hardening, services, addresses, network_policies, google,
    disruption_budgets, settings,
)  # fmt: skip


def config_of(objects: list[Object]) -> Object:
    """The ConfigMap of settings."""
    (name,) = (name for name in _of(objects, "ConfigMap") if name.startswith("settings-"))
    return by_name(objects, "ConfigMap", name)
