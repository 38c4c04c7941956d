"""What the deployments say of Goloves is true of it: ports, paths, flags, variables, settings, users, times, tags."""

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from deploy import manifests
from deploy.kustomize import HASH, Manifest
from deploy.load import RETRIES
from deploy.manifests import DEPLOYMENTS, KUBERNETES, OVERLAYS, ROOT, SECRET_URL
from goloves import __version__
from goloves.cli.failures import Exit
from goloves.config import Config, load
from goloves.config.addresses import parse_address
from goloves.config.schema import find
from goloves.config.sources import OTHER_VARIABLES, SHORT_VARIABLES, variable_of
from goloves.server.assembly import may_create
from goloves.server.http.answers import Answer
from goloves.server.http.routes import Routes
from goloves.server.limits import HttpLimits
from goloves.stores.urls import parse_store_url

docs = importlib.import_module("scripts.docs")

DEFAULTS = Config()
HTTP, GRPC = (int(each.listen[0].rpartition(":")[2]) for each in (DEFAULTS.http, DEFAULTS.grpc))
UID = 10001
STATE = "/var/lib/goloves"
SECRETS = "/run/secrets/"
CREDENTIALS = "/run/credentials/goloves.service/"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand for the place where secrets are mounted, on a machine that is named as a pod is."""
    monkeypatch.setattr("socket.gethostname", lambda: "goloves-2")
    (tmp_path / "goloves").mkdir()
    (tmp_path / "goloves" / "url").write_text(SECRET_URL)
    (tmp_path / "store-url").write_text(SECRET_URL)
    (tmp_path / "password").write_text("it is/a:secret\n")
    return tmp_path


def configured(text: str, environ: dict[str, str], secrets: Path) -> Config:
    """Load a configuration as the program would, with the secrets' place moved; nothing may be noted about it."""

    def moved(value: str) -> str:
        return value.replace(SECRETS, f"{secrets}/").replace(CREDENTIALS, f"{secrets}/")

    file = secrets / "goloves.toml"
    file.write_text(moved(text), "utf-8")
    loaded = load(file, {name: moved(value) for name, value in environ.items()}, {})
    assert loaded.notes == ()
    return loaded.config


def in_kubernetes(objects: list[Manifest], secrets: Path) -> Config:
    environ = {each["name"]: each["value"] for each in manifests.container(objects).get("env", [])}
    return configured(manifests.one(objects, "ConfigMap")["data"]["goloves.toml"], environ, secrets)


IMAGE_TOML = (DEPLOYMENTS / "docker" / "goloves.toml").read_text("utf-8")


# --- ports ---


def test_every_deployment_listens_on_the_ports_that_goloves_has_by_default(secrets: Path) -> None:
    for path in manifests.files():
        if path.name != "goloves.toml":
            continue
        text = path.read_text("utf-8")
        config = configured(text, {}, secrets)
        assert [parse_address(each).port for each in config.http.listen] == [HTTP], path
        assert [parse_address(each).port for each in config.grpc.listen] == [GRPC], path
        assert config.server.data_dir == STATE, path


def test_the_image_exposes_the_ports_that_it_listens_on() -> None:
    assert manifests.instruction("EXPOSE").split() == [str(HTTP), str(GRPC)]


def test_compose_publishes_the_ports_to_this_machine_only() -> None:
    published = {name: each["ports"] for name, each in manifests.compose()["services"].items() if "ports" in each}
    assert len(published) == 4
    for name, ports in published.items():
        assert ports == [f"127.0.0.1:{HTTP}:{HTTP}", f"127.0.0.1:{GRPC}:{GRPC}"], name


@pytest.mark.parametrize("name", OVERLAYS)
def test_services_and_policies_lead_to_the_ports_of_the_pods(name: str) -> None:
    objects = manifests.overlay(name)
    assert manifests.named_ports(objects) == {"http": HTTP, "grpc": GRPC}
    labels = manifests.workload(objects)["spec"]["template"]["metadata"]["labels"]
    of_services = {}
    for service in (each for each in objects if each["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        for port in service["spec"]["ports"]:
            of_services[port["targetPort"]] = port["port"]
    assert of_services == manifests.named_ports(objects)
    policy = manifests.one(objects, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert sorted(port["port"] for rule in policy["ingress"] for port in rule["ports"]) == [HTTP, GRPC]
    budget = manifests.one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert budget.items() <= labels.items()
    assert manifests.workload(objects)["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_an_overlay_lets_its_pods_reach_its_store_and_the_migration_either() -> None:
    default = {name: parse_store_url(f"{name}://user@host/database").port for name in ("mysql", "postgresql")}
    assert default == {"mysql": 3306, "postgresql": 5432}

    def reaches(objects: list[Manifest]) -> set[int]:
        policy = manifests.one(objects, "NetworkPolicy")["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        return {port["port"] for rule in policy["egress"] for port in rule["ports"]}

    stores = {name: reaches(manifests.overlay(name)) - {53} for name in OVERLAYS}
    assert stores == {"mysql": {3306}, "ordinals": {3306}, "postgresql": {5432}, "statefulset": {3306}}
    assert reaches(manifests.migration()) == {53, 3306, 5432}


def test_the_proxies_go_from_the_ports_to_the_same_ports_of_each_node() -> None:
    frontends = {name: lines for name, lines in manifests.haproxy().items() if name.startswith("frontend")}
    assert [lines[0] for lines in frontends.values()] == [f"bind :{HTTP}", f"bind :{GRPC} proto h2"]
    servers = [
        (section, line.split()[2])
        for section, lines in manifests.haproxy().items()
        for line in lines
        if line.startswith("server ")
    ]
    for section, address in servers:
        assert address.endswith(f":{HTTP if section == 'backend nodes_http' else GRPC}")
    assert len(servers) == 6
    assert [each[0] for each in manifests.directives("listen")] == [str(HTTP), str(GRPC)]
    for plane, port in (("http", HTTP), ("grpc", GRPC)):
        addresses = [each[0] for each in manifests.directives("server", f"upstream goloves_{plane}")]
        assert addresses == 2 * [f"goloves-1:{port}", f"goloves-2:{port}"]


def test_the_nodes_behind_the_load_balancer_are_services_of_compose() -> None:
    text = (DEPLOYMENTS / "haproxy" / "haproxy.cfg").read_text("utf-8")
    assert set(re.findall(r"goloves-\d", text)) <= set(manifests.services())


# --- paths ---


class Ready:
    def readiness(self) -> list[str]:
        return []


def paths() -> set[str]:
    health = [manifests.instruction("HEALTHCHECK")]
    health += [" ".join(each["healthcheck"].get("test", [])) for each in manifests.services().values()]
    found = {path for text in health for path in re.findall(rf"http://127\.0\.0\.1:{HTTP}(/\w+)", text)}
    for name in OVERLAYS:
        container = manifests.container(manifests.overlay(name))
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] == "http"
            found.add(container[probe]["httpGet"]["path"])
    found |= {line.split()[-1] for line in manifests.haproxy()["defaults"] if line.startswith("option httpchk")}
    return found


def test_what_probes_and_health_checks_ask_for_is_there() -> None:
    routes = Routes(Ready(), HttpLimits(), {}, None)  # type: ignore[arg-type]  # two paths that need no more
    assert paths() == {"/healthz", "/readyz"}
    for path in paths():
        answer = routes.find(f"GET {path}".encode(), None)
        assert isinstance(answer, Answer)
        assert answer.status == 200


def test_traffic_depends_on_readiness_and_life_does_not() -> None:
    for name in OVERLAYS:
        container = manifests.container(manifests.overlay(name))
        asked = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
        assert asked == {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert "option httpchk GET /readyz" in manifests.haproxy()["defaults"]
    assert "/healthz" in manifests.instruction("HEALTHCHECK")


def test_the_proxies_tell_streams_by_the_names_that_they_have_in_the_contract() -> None:
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    from goloves.v1 import goloves_pb2

    streams = {
        f"/{service.full_name}/{method.name}"
        for contract in (goloves_pb2, health_pb2, reflection_pb2)
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.server_streaming
    }
    assert len(streams) == 4
    (use,) = (line for line in manifests.haproxy()["frontend grpc"] if line.startswith("use_backend"))
    ends = use.partition("path_end ")[2].rstrip(" }").split()
    (block,) = {blocks[-1] for blocks, _ in manifests.nginx() if blocks[-1].startswith("location ~")}
    pattern = block.removeprefix("location ~ ")
    for stream in streams:
        assert any(stream.endswith(end) for end in ends)
        assert re.search(pattern, stream)
    assert not re.search(pattern, "/goloves.v1.SegmentService/Next")


# --- commands and variables ---


def commands() -> dict[str, list[str]]:
    found = {"Dockerfile": manifests.image_command()}
    for name, service in manifests.services().items():
        found[name] = manifests.image_command(*service.get("command", []))
    for name, objects in {
        **{each: manifests.overlay(each) for each in OVERLAYS},
        "migrate": manifests.migration(),
        "repair": manifests.repair(),
    }.items():
        found[name] = manifests.container(objects)["args"]
    found["systemd"] = manifests.of_service("ExecStart").split()[1:]
    return found


@pytest.mark.parametrize(("where", "words"), commands().items())
def test_every_command_is_one_that_goloves_has_with_flags_that_it_has(where: str, words: list[str]) -> None:
    assert docs.can_be_given(shlex.join(["goloves", *words])) == "", where


def test_every_command_that_a_comment_gives_can_be_given() -> None:
    given = [
        f"goloves {words}"
        for path in manifests.files()
        for words in re.findall(
            r"^# +(?:\S+=\S+ )?/opt/goloves/bin/goloves (.+)$", path.read_text("utf-8"), re.MULTILINE
        )
    ]
    assert given == ["goloves migrate --config /etc/goloves/goloves.toml"]
    # As it is written in the unit, and nowhere else: the operator's page gives the same.
    assert given[0] in (ROOT / "docs" / "operations.md").read_text("utf-8")
    for line in given:
        assert docs.can_be_given(line) == ""


def test_the_commands_by_hand_of_a_page_go_to_services_and_pods_that_there_are() -> None:
    pages = [ROOT / "docs" / "operations.md", DEPLOYMENTS / "README.md"]
    text = "".join(path.read_text("utf-8") for path in pages)
    composed = re.findall(r"^    docker compose --profile (\w+) (?:exec|run --rm) (\S+) ?(.*)$", text, re.MULTILINE)
    assert len(composed) == 3
    for profile, service, words in composed:
        assert set(manifests.services()[service]["profiles"]) & {profile, "migrate"}
        command = words.removeprefix("goloves ") or manifests.services()[service]["command"][0]
        assert docs.can_be_given(f"goloves {command}") == ""
    in_pods = re.findall(r"^    kubectl exec (?:-it )?deploy/(\S+) -- (goloves [^#\n]+)", text, re.MULTILINE)
    assert len(in_pods) == 2
    for name, command in in_pods:
        assert name == manifests.workload(manifests.overlay("mysql"))["metadata"]["name"]
        assert docs.can_be_given(command) == ""
    for place in re.findall(r"kubectl apply -k (\S+)", text):
        assert (KUBERNETES / place.removeprefix("deployments/kubernetes/") / "kustomization.yaml").exists(), place


def test_nothing_that_starts_again_and_again_makes_a_store() -> None:
    serving = {where for where, words in commands().items() if words[0] == "serve"}
    assert len(serving) == 1 + 5 + len(OVERLAYS) + 1
    for where in serving:
        assert "--init" not in commands()[where]
        assert "--init" not in " ".join(manifests.of_service("ExecStart").split())


def test_the_image_makes_no_store_wherever_it_is_told_to_listen(secrets: Path) -> None:
    # In a container beside the one that asks, or on the machine's own network.
    loopback = {
        "GOLOVES_HTTP__LISTEN": "127.0.0.1:8080",
        "GOLOVES_GRPC__LISTEN": "127.0.0.1:50051",
        "GOLOVES_SERVER__DATA_DIR": str(secrets),
    }
    assert may_create(configured("", loopback, secrets))
    assert not may_create(configured(IMAGE_TOML, loopback, secrets))


def test_every_variable_is_one_that_goloves_reads() -> None:
    names = {name for path in manifests.files() for name in re.findall(r"\bGOLOVES_\w+", path.read_text("utf-8"))}
    assert {"GOLOVES_CONFIG", "GOLOVES_STORE", "GOLOVES_STORES__PASSWORD_FILE"} <= names
    for name in names - {*OTHER_VARIABLES, *SHORT_VARIABLES, "GOLOVES_SECTION__KEY"}:
        key = tuple(part.lower() for part in name.removeprefix("GOLOVES_").split("__"))
        node = find(key)
        assert node is not None, name
        assert node.kind == "setting", name
        assert variable_of(key) == name


# --- settings ---


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlays_settings_are_whole_and_its_mounts_are_where_they_say(name: str, secrets: Path) -> None:
    objects = manifests.overlay(name)
    config = in_kubernetes(objects, secrets)
    assert config.segments_url == config.windows_url == SECRET_URL
    mounts = {each["mountPath"]: each["name"] for each in manifests.container(objects)["volumeMounts"]}
    assert set(mounts) == {"/etc/goloves", "/run/secrets/goloves", STATE, "/tmp"}
    pod = manifests.pod(objects)
    volumes = {each["name"]: each for each in pod["volumes"]}
    claims = {each["metadata"]["name"] for each in manifests.workload(objects)["spec"].get("volumeClaimTemplates", [])}
    assert set(mounts.values()) == set(volumes) | claims
    assert claims == ({"state"} if manifests.workload(objects)["kind"] == "StatefulSet" else set())
    assert volumes["configuration"]["configMap"]["name"] == f"goloves{HASH}"
    (file,) = manifests.one(objects, "ConfigMap")["data"]
    assert f"GOLOVES_CONFIG=/etc/goloves/{file}" in manifests.instruction("ENV")


def test_every_pod_takes_the_url_from_the_secret_that_is_applied_first(tmp_path: Path) -> None:
    from deploy.kustomize import render

    (secret,) = render(manifests.laid_out(tmp_path) / "secret")
    for objects in [*map(manifests.overlay, OVERLAYS), manifests.migration()]:
        (volume,) = (each for each in manifests.pod(objects)["volumes"] if "secret" in each)
        assert volume["secret"]["secretName"] == secret["metadata"]["name"]
        assert not any(each["kind"] == "Secret" for each in objects)
        # Readable by the group that the pods' volumes have (fsGroup), and nobody else.
        assert volume["secret"]["defaultMode"] == 0o440
    assert list(secret["data"]) == ["url"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_the_overlay_of_ordinals_takes_worker_ids_from_host_names(name: str, secrets: Path) -> None:
    space = in_kubernetes(manifests.overlay(name), secrets).spaces["default"]
    assert space.worker_ids() == (range(2, 3) if name == "ordinals" else None)


def test_the_migration_reaches_the_store_of_the_secret(secrets: Path) -> None:
    environ = {each["name"]: each["value"] for each in manifests.container(manifests.migration())["env"]}
    assert configured(IMAGE_TOML, environ, secrets).segments_url == SECRET_URL


def test_the_services_of_compose_reach_the_databases_beside_them(secrets: Path) -> None:
    reached = {}
    for name, service in manifests.services().items():
        config = configured(IMAGE_TOML, service.get("environment", {}), secrets)
        url = parse_store_url(config.segments_url)
        if url.dialect == "sqlite":
            assert url.database.startswith(f"{STATE}/")
            continue
        host = reached[name] = url.host
        assert host in manifests.compose()["services"]
        assert service["depends_on"] == {host: {"condition": "service_healthy"}}
        assert url.password == "it is/a:secret"
        assert service["secrets"] == manifests.compose()["services"][host]["secrets"] == ["password"]
    assert set(reached.values()) == {"mariadb", "postgresql"}
    assert len(reached) == 6


def test_the_unit_reads_its_configuration_and_its_credential(secrets: Path) -> None:
    text = (DEPLOYMENTS / "systemd" / "goloves.toml").read_text("utf-8")
    assert configured(text, {}, secrets).segments_url == f"sqlite:///{STATE}/goloves.db"
    with_a_database = re.sub(r"^# (url_file = )", r"\1", text, flags=re.MULTILINE)
    assert with_a_database != text
    assert configured(with_a_database, {}, secrets).segments_url == SECRET_URL
    service = (DEPLOYMENTS / "systemd" / "goloves.service").read_text("utf-8")
    assert re.search(r"^#LoadCredential=store-url:", service, re.MULTILINE)
    assert manifests.of_service("StateDirectory") == Path(STATE).name
    assert manifests.of_service("WorkingDirectory") == STATE


def test_the_unit_starts_a_service_again_unless_a_person_has_to_mend_something() -> None:
    assert manifests.of_service("Restart") == "on-failure"
    final = {int(code) for code in manifests.of_service("RestartPreventExitStatus").split()}
    assert final == {Exit.USAGE, Exit.CONFIG}


# --- times ---


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_is_killed_only_after_its_pause_and_its_drain(name: str, secrets: Path) -> None:
    objects = manifests.overlay(name)
    pause = manifests.container(objects)["lifecycle"]["preStop"]["exec"]["command"]
    assert pause[0] == "sleep"
    takes = int(pause[1]) + manifests.stop_takes(in_kubernetes(objects, secrets))
    assert manifests.pod(objects)["terminationGracePeriodSeconds"] > takes


def test_nothing_else_kills_a_node_before_its_drain_is_over() -> None:
    takes = manifests.stop_takes(DEFAULTS)
    assert manifests.seconds(manifests.of_service("TimeoutStopSec")) > takes
    for name, service in manifests.services().items():
        assert manifests.seconds(service["stop_grace_period"]) > takes, name
    (plain,) = re.findall(r"--stop-timeout (\d+)", (ROOT / "Dockerfile").read_text("utf-8"))
    assert int(plain) > takes


def test_the_units_watchdog_waits_for_longer_than_the_supervisor_gives_a_node() -> None:
    assert manifests.of_service("Type") == "notify"
    assert manifests.seconds(manifests.of_service("WatchdogSec")) > DEFAULTS.server.unresponsive


def test_a_pod_is_told_to_stop_by_a_signal_that_drains() -> None:
    assert manifests.instruction("STOPSIGNAL") == "SIGTERM"
    assert manifests.of_service("KillSignal") == "SIGTERM"
    assert manifests.of_service("KillMode") == "mixed"


def test_the_proxies_let_go_of_connections_before_the_nodes_do() -> None:
    for plane, idle in (("http", DEFAULTS.http.idle_timeout), ("grpc", DEFAULTS.grpc.idle_timeout)):
        ((kept,),) = manifests.directives("keepalive_timeout", f"upstream goloves_{plane}")
        assert manifests.seconds(kept) < idle
    assert manifests.haproxy_time("frontend http", "http-keep-alive") < DEFAULTS.http.idle_timeout
    assert manifests.haproxy_time("frontend http", "http-request") <= DEFAULTS.http.request_timeout


def test_the_proxies_wait_for_longer_than_a_node_takes_and_no_hung_node_holds_a_call() -> None:
    node = max(DEFAULTS.segment.deadline, DEFAULTS.snowflake.deadline) + DEFAULTS.stores.timeout
    waits = [manifests.haproxy_time(f"backend {each}", "server") for each in ("nodes_http", "nodes_grpc")]
    waits += [manifests.seconds(each[0]) for each in manifests.directives("proxy_read_timeout")]
    waits += [manifests.seconds(each[0]) for each in manifests.directives("grpc_read_timeout", "location /")]
    assert len(waits) == 4
    for wait in waits:
        assert node < wait < DEFAULTS.server.unresponsive


def test_the_proxies_pass_on_an_answer_that_says_unavailable() -> None:
    (retry,) = (line for line in manifests.haproxy()["defaults"] if line.startswith("retry-on"))
    assert "503" not in retry
    (times,) = (line for line in manifests.haproxy()["defaults"] if line.startswith("retries"))
    assert int(times.split()[1]) <= 3
    for each in manifests.directives("proxy_next_upstream") + manifests.directives("grpc_next_upstream"):
        assert "http_503" not in each


def test_the_retry_policy_of_the_page_is_the_one_that_clients_behind_the_proxies_are_tried_with() -> None:
    (policy,) = re.findall(
        r"^```json\n(.+?)^```$", (ROOT / "docs" / "grpc-api.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert json.loads(policy) == json.loads(RETRIES)


def test_what_comments_quote_of_the_settings_is_what_they_are(secrets: Path) -> None:
    count = 0
    for path in manifests.files():
        config = DEFAULTS
        if path.is_relative_to(KUBERNETES):
            config = in_kubernetes(manifests.overlay("mysql"), secrets)
        for name, value in manifests.quoted(path):
            section, _, field = name.partition(".")
            assert getattr(getattr(config, section), field) == value, f"{path}: {name}"
            count += 1
    assert count >= 15


# --- names and users ---


def test_every_version_is_this_one() -> None:
    packages = [*manifests.files(), *(ROOT / "docs").glob("*.md")]
    assert len(packages) > 20
    named = [each for path in packages for each in re.findall(r"goloves-([\d.]+)-py3", path.read_text("utf-8"))]
    assert set(named) == {__version__}
    assert len(named) == 3
    assert f"VERSION={__version__}" in [rest for word, rest in manifests.dockerfile() if word == "ARG"]
    for objects in [*map(manifests.overlay, OVERLAYS), manifests.migration()]:
        assert manifests.container(objects)["image"] == f"goloves:{__version__}"
    for path in manifests.files():
        for said in re.findall(r"goloves:(\d\S*)", path.read_text("utf-8")):
            assert said == __version__, path


def test_every_deployment_runs_as_the_images_user_and_writes_only_where_it_may() -> None:
    assert manifests.instruction("USER") == f"{UID}:{UID}"
    made = (ROOT / "Dockerfile").read_text("utf-8")
    assert f"--uid {UID}" in made
    assert f"-o {UID} -g {UID}" in made
    assert manifests.instruction("VOLUME") == manifests.instruction("WORKDIR") == STATE
    for objects in [*map(manifests.overlay, OVERLAYS), manifests.migration()]:
        pod: dict[str, Any] = manifests.pod(objects)
        context = pod["securityContext"]
        assert context["runAsNonRoot"]
        assert {context[each] for each in ("runAsUser", "runAsGroup", "fsGroup")} == {UID}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        own = manifests.container(objects)["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
    for name, service in manifests.services().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "user" not in service


@pytest.mark.parametrize("profile", ["sqlite", "mariadb", "postgresql", "balanced"])
def test_a_profile_of_compose_has_all_that_it_needs(profile: str) -> None:
    services = manifests.compose()["services"]
    chosen = {name: each for name, each in services.items() if profile in each["profiles"]}
    assert chosen
    for name, each in chosen.items():
        assert set(each.get("depends_on", {})) <= set(chosen), name
    published = [name for name, each in chosen.items() if "ports" in each]
    assert len(published) == 1
    states = [each["volumes"][0].partition(":")[0] for each in chosen.values() if each["image"] == "goloves"]
    assert len(states) == len(set(states)) == (2 if profile == "balanced" else 1)


def test_no_two_nodes_of_compose_share_a_state_directory_and_nothing_grows_without_end() -> None:
    nodes = [name for name, each in manifests.services().items() if each["profiles"] != ["migrate"]]
    states = [manifests.services()[name]["volumes"][0].partition(":")[0] for name in nodes]
    assert len(states) == len(set(states)) == 5
    assert set(states) < set(manifests.compose()["volumes"])
    for name, each in manifests.compose()["services"].items():
        assert each["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name
        assert each["mem_limit"], name
        assert each["pids_limit"] > 0, name


# --- the order in which they are applied ---


@pytest.mark.parametrize("path", sorted(KUBERNETES.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_the_commands_of_a_header_name_directories_in_an_order_that_works(path: Path) -> None:
    text = path.read_text("utf-8")
    named = [(path.parent / each).resolve() for each in re.findall(r"^#.*kubectl apply -k (\S+)", text, re.MULTILINE)]
    order = [each.relative_to(KUBERNETES).parts[0] for each in named]
    assert all((each / "kustomization.yaml").exists() for each in named)
    if path.parent.parent.name == "overlays":
        assert order == ["secret", "migrate", "overlays"]
    elif path.parent.name == "migrate":
        assert order == ["secret", "migrate"]
        assert text.index("kubectl delete -k . --ignore-not-found") < text.index("kubectl apply -k .\n")


def test_a_repair_is_the_migration_with_another_command_and_the_migration_stays_what_it_is() -> None:
    job, other = (manifests.container(objects) for objects in (manifests.repair(), manifests.migration()))
    assert job["args"] == ["repair", "--restored", "--yes"]
    assert {**job, "args": ["migrate"]} == other


def test_a_migration_ends_by_itself_and_goes_away() -> None:
    spec = manifests.workload(manifests.migration())["spec"]
    assert 0 < spec["activeDeadlineSeconds"] <= 3600
    assert spec["ttlSecondsAfterFinished"] > 0
    labels = spec["template"]["metadata"]["labels"]
    policy = manifests.one(manifests.migration(), "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    for name in OVERLAYS:
        for service in (each for each in manifests.overlay(name) if each["kind"] == "Service"):
            assert not service["spec"]["selector"].items() <= labels.items(), "a Service would lead to the migration"


def test_secrets_that_users_lay_beside_the_manifests_are_not_kept_in_git() -> None:
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert "/deployments/kubernetes/secret/store-url" in ignored
    assert manifests.compose()["secrets"]["password"]["file"] == "secrets/password"
    assert "/deployments/docker/secrets/" in ignored
