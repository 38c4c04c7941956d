"""Builds the image and runs it, without a container engine: `python scripts/image.py` (make image-test).

Needs root, buildah, debootstrap and util-linux, and installs what is missing. Where it can't run it says so; in CI (the
variable CI is set) that is a failure. The base image is made by debootstrap from the machine's own Debian mirror, under
the name that the Dockerfile asks for, and kept in .cache/image; no image is pulled. The container has namespaces of its
own and its root mounted read-only, the user, environment and entry point of the image, and a volume for its state;
everything goes away with its first process. The last line counts what was looked at.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "image"
BASE = "debian:bookworm-slim"
SUITE = "bookworm"
NAME = "goloves:test"
PATIENCE = 60.0
"""Seconds: far more than a start takes, on a machine that does other things too."""

LABELLED = {"REVISION": "0123abc", "CREATED": "2024-05-06T07:08:09Z", "SOURCE": "https://example.invalid/goloves"}
"""Build arguments that become labels: made up, for what counts is that they arrive."""

PROGRAMS = {"buildah": "buildah", "debootstrap": "debootstrap", "unshare": "util-linux", "nsenter": "util-linux"}


class Wrong(Exception):
    """The image doesn't do what it must."""


passed = 0
"""What was looked at and holds."""


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inside", nargs=2, metavar=("ROOT", "JSON"), help=argparse.SUPPRESS)
    parser.add_argument("--ask", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        enter(Path(arguments.inside[0]), json.loads(arguments.inside[1]))
    if arguments.ask:
        sys.stdout.write(json.dumps(ask()))
        return
    try:
        begun = time.monotonic()
        if reason := why_not():
            if os.environ.get("CI"):
                raise Wrong(f"CI tests the image, and this can't: {reason}")
            sys.stderr.write(f"WARNING: the image was NOT built and NOT tested: {reason}\n")
            return
        installed = time.monotonic()
        base = make_base()
        made = time.monotonic()
        build()
        built = time.monotonic()
        sys.stdout.write(
            f"programs {installed - begun:.0f} s, base {made - installed:.0f} s ({base}), image {built - made:.0f} s\n"
        )
        test()
    except Wrong as error:
        sys.stderr.write(f"image-test: {error}\n")
        sys.stdout.write(f"{passed} passed, 1 failed\n")
        sys.exit(1)
    sys.stdout.write(f"{passed} passed, 0 failed\n")


def why_not() -> str:
    """Say why this machine can't do it; empty if it can."""
    if os.geteuid() != 0:
        return "it needs root (mounts, namespaces)"
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        subprocess.run([ROOT / "scripts" / "apt-install", *sorted(missing)], check=False)
        missing = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        return f"install {', '.join(sorted(missing))}"
    tried = subprocess.run([*APART, "true"], capture_output=True, text=True, check=False)
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


APART = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]


# --- building ---


def buildah(*words: str | Path) -> str:
    """Run buildah with storage of its own under .cache; its output."""
    environment = {
        **os.environ,
        "STORAGE_DRIVER": "vfs",
        "BUILDAH_ISOLATION": "chroot",
        "TMPDIR": str(CACHE / "tmp"),
        "XDG_RUNTIME_DIR": str(CACHE / "run"),
    }
    where = ["--root", str(CACHE / "storage"), "--runroot", str(CACHE / "run"), "--storage-driver", "vfs"]
    done = subprocess.run(
        ["buildah", *where, *map(str, words)], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise Wrong(f"buildah {words[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


def build() -> None:
    """Build the image, labelled as a release is, on the base."""
    with tempfile.TemporaryDirectory(prefix="goloves-image-") as directory:
        pip = Path(directory) / "pip.conf"
        pip.write_text(pip_configuration(), "utf-8")
        volumes = [f"--volume={pip}:/etc/pip.conf:ro"]
        if Path("/etc/ssl/certs").is_dir():
            volumes.append("--volume=/etc/ssl/certs:/etc/ssl/certs:ro")
        # No layers: each would be a whole copy with this storage driver. HEALTHCHECK needs Docker's format.
        how = ["--pull-never", "--format=docker", "--layers=false", f"--tag={NAME}"]
        how += [f"--build-arg={name}={value}" for name, value in {"BASE": BASE, **LABELLED}.items()]
        buildah("build", *how, *volumes, f"--file={ROOT / 'Dockerfile'}", ROOT)
    # The stage that builds, and the image before this one: each is whole, with this storage driver.
    buildah("rmi", "--prune")


def make_base() -> str:
    """Make the base image, unless the storage has it; says which."""
    for name in ("tmp", "run"):
        (CACHE / name).mkdir(parents=True, exist_ok=True)
    # Names are stored with the registry that they would come from.
    if any(name.endswith(f"/{BASE}") for name in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()):
        return "kept from before"
    archive = CACHE / f"{SUITE}.tar"
    if not archive.exists():
        with tempfile.TemporaryDirectory(prefix="base-", dir=CACHE / "tmp") as directory:
            tree = Path(directory) / "root"
            command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, tree, mirror()]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            if done.returncode:
                raise Wrong(f"debootstrap failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"):
                shutil.rmtree(tree / waste, ignore_errors=True)
                (tree / waste).mkdir()
            new = archive.with_suffix(".new")
            with tarfile.open(new, "w") as tar:
                tar.add(tree, ".")
            new.replace(archive)
    container = buildah("from", "scratch")
    try:
        buildah("add", container, archive, "/")
        buildah("config", "--cmd", "/bin/sh", container)
        buildah("commit", container, BASE)
    finally:
        buildah("rm", container)
    return "made anew"


def mirror() -> str:
    """Give the Debian mirror that this machine uses."""
    for file in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        text = file.read_text("utf-8") if file.is_file() else ""
        for found in re.finditer(r"^(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S+/debian)/?(?=\s|$)", text, re.MULTILINE):
            return found[1]
    raise Wrong("no Debian mirror stands in /etc/apt/sources.list, and the base is made from one")


def pip_configuration() -> str:
    """Give this machine's pip configuration, whatever it comes from, as a file."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    settings = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name not in ("user", "target", "prefix", "require-virtualenv"):  # these say where this machine installs
            settings[name] = value.strip("'\"").replace("\\n", " ")
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


# --- running ---


@dataclass
class Container:
    """A container of the image under way."""

    process: subprocess.Popen[str]
    log: Path
    environment: dict[str, str]

    @property
    def first(self) -> int:
        """The host's number of the container's first process, once there is one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii").split()
            if children:
                return int(children[0])
            time.sleep(0.005)
        raise Wrong(f"it ended:\n{self.said}")

    @property
    def said(self) -> str:
        """Everything said so far."""
        return self.log.read_text("utf-8", errors="replace")

    def inside(self, *command: str, root: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the container's namespaces; with its root too, unless it is a program of the host."""
        words = ["nsenter", f"--target={self.first}", "--net"]
        if root:
            words += ["--mount", "--pid", "--root", "--wd", "--setuid=10001", "--setgid=10001", "env", "-i"]
            words += [f"{name}={value}" for name, value in self.environment.items()]
        return subprocess.run([*words, *command], capture_output=True, text=True, check=False, timeout=2 * PATIENCE)

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM, as an engine does; the exit code and the seconds it took."""
        begun = time.monotonic()
        os.kill(self.first, signal.SIGTERM)
        return self.process.wait(PATIENCE), time.monotonic() - begun


def test() -> None:
    """Run the image and hold it to what it must do."""
    whole = json.loads(buildah("inspect", "--type=image", NAME))
    docker, size = whole["Docker"], image_size()
    config = docker["config"]
    expect(config["User"] == "10001:10001", f"its user is {config['User']!r}")
    expect(config.get("StopSignal") == "SIGTERM", "it stops by another signal than SIGTERM")
    expect("/var/lib/goloves" in (config.get("Volumes") or {}), "its state is not in a volume")
    expect(set(config["ExposedPorts"]) == {"8080/tcp", "50051/tcp"}, f"its ports are {config['ExposedPorts']}")
    for name, value in {"licenses": "Apache-2.0", "version": version(), **lowered(LABELLED)}.items():
        label = config["Labels"].get(f"org.opencontainers.image.{name}")
        expect(label == value, f"its label {name} is {label!r}, not {value!r}")
    container = buildah("from", "--pull-never", NAME)
    try:
        tree = Path(buildah("mount", container))
        with tempfile.TemporaryDirectory(prefix="goloves-volume-") as directory:
            volume = Path(directory) / "volume"
            volume.mkdir(mode=0o700)
            os.chown(volume, 10001, 10001)
            start_up, stop = live(tree, config, volume, Path(directory) / "log")
    finally:
        buildah("rm", container)
    sys.stdout.write(f"size {size / 1e6:.0f} MB unpacked, ready after {start_up:.2f} s, stopped in {stop:.2f} s\n")


def version() -> str:
    """Give the version that this tree has."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/goloves/__init__.py").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise Wrong("src/goloves/__init__.py has no __version__")
    return found[1]


def lowered(values: dict[str, str]) -> dict[str, str]:
    """Give the values under names in lower case."""
    return {name.lower(): value for name, value in values.items()}


def live(tree: Path, config: dict[str, Any], volume: Path, log: Path) -> tuple[float, float]:
    """Go through a container's life: no store, a new one, stop, start; seconds until ready, and until stopped."""
    with running(tree, config, volume, log) as container:
        code = container.process.wait(PATIENCE)
        expect(code != 0, "it starts without a store, and would repeat ids where a volume was not mounted (R8)")
        expect("there is no store at /var/lib/goloves/goloves.db" in container.said, f"it says:\n{container.said}")
    expect(not (volume / "goloves.db").exists(), "a failed start left a store behind")
    # Beside the program that asks for ids it is told to listen on loopback, where a start would else make a store.
    loopback = ["GOLOVES_HTTP__LISTEN=127.0.0.1:8080", "GOLOVES_GRPC__LISTEN=127.0.0.1:50051"]
    with running(tree, {**config, "Env": [*config["Env"], *loopback]}, volume, log) as container:
        expect(container.process.wait(PATIENCE) != 0, "on loopback it makes a store where none was mounted (R8)")
        expect("goloves migrate" in container.said, f"it does not say how a store is made:\n{container.said}")

    with running(tree, config, volume, log, "migrate") as container:
        expect(container.process.wait(PATIENCE) == 0, f"migrate says:\n{container.said}")

    seen: list[dict[str, Any]] = []
    begun = time.monotonic()
    with running(tree, config, volume, log) as container:
        seen.append(answers(container))
        start_up = seen[0]["ready_at"] - begun
        health = container.inside(*config["Healthcheck"]["Test"][1:])
        expect(health.returncode == 0, f"its health check fails:\n{health.stderr}")
        user = container.inside("python", "-c", "import os; print(os.getuid(), os.getpid() > 0)")
        expect(user.stdout.split()[0] == "10001", f"commands in it run as {user.stdout or user.stderr}")
        written = container.inside("python", "-c", "open('/opt/goloves/x', 'w')")
        expect("Read-only file system" in written.stderr, f"its root can be written: {written.stderr}")
        whole = container.inside("python", "-c", IMPORTS)
        expect(whole.returncode == 0, f"something is missing in it:\n{whole.stderr}")
        expect(int(whole.stdout) > 100, f"only {whole.stdout.strip()} modules of Goloves are in it")
        status = Path(f"/proc/{container.first}/status").read_text("ascii")
        expect(re.search(r"^Uid:\s+10001\s+10001", status, re.MULTILINE) is not None, "it runs as root")
        code, stop = container.stop()
        expect(code == 0, f"after SIGTERM it ends with {code}:\n{container.said}")
    with running(tree, config, volume, log) as container:
        seen.append(answers(container))
        expect(container.stop()[0] == 0, "it does not stop a second time")
    for what in ("segment", "snowflake", "grpc"):
        before, after = seen[0][what], seen[1][what]
        expect(max(before) < min(after), f"{what}: after a restart it goes on at {after}, and had given {before}")
    return start_up, stop


IMPORTS = """
import aiosqlite, asyncmy.connection, asyncmy.cursors, asyncpg.protocol, goloves, importlib, pkgutil
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

# What MySQL 8 asks for at a login without TLS: a password encrypted with the server's key.
key = rsa.generate_private_key(65537, 2048)
oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
assert key.decrypt(key.public_key().encrypt(b'x', oaep), oaep) == b'x'
names = [module.name for module in pkgutil.walk_packages(goloves.__path__, 'goloves.')]
for name in names:
    # Clients made for grpcio, which is left out; and what runs, or migrates, when it is loaded.
    if not name.endswith(('_pb2_grpc', '__main__', 'migrations.env')):
        importlib.import_module(name)
print(len(names))
"""
"""Loads every module of Goloves, and what it needs for each store, down to the parts that are machine code."""


def answers(container: Container) -> dict[str, Any]:
    """Ask for ids over HTTP and gRPC, from within the container's network."""
    python = [sys.executable, str(Path(__file__).resolve()), "--ask"]
    done = container.inside(*python, root=False)
    expect(done.returncode == 0, f"it does not answer:\n{done.stderr}\nit says:\n{container.said}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ask() -> dict[str, Any]:
    """Wait until ready, then draw ids over HTTP and gRPC."""
    http = "http://127.0.0.1:8080"
    deadline = time.monotonic() + PATIENCE
    while not ready(f"{http}/readyz"):
        if time.monotonic() > deadline:
            sys.exit("it did not become ready")
        time.sleep(0.02)
    ready_at = time.monotonic()

    def get(path: str) -> int:
        with urllib.request.urlopen(http + path, timeout=PATIENCE) as answer:
            return int(answer.read())

    import grpc

    with grpc.insecure_channel("127.0.0.1:50051") as channel:
        # A tag's name, and a count of 1 by default; eight bytes for each id come back.
        call = channel.unary_unary("/goloves.v1.SegmentService/Next")
        answer = call(b"\x0a\x07default", timeout=PATIENCE)
    return {
        "ready_at": ready_at,
        "segment": [get("/api/segment/get/default") for _ in range(3)],
        "snowflake": [get("/api/snowflake/get/x") for _ in range(3)],
        "grpc": [struct.unpack("<q", answer[-8:])[0]],
    }


def ready(url: str) -> bool:
    """Ask once."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@contextmanager
def running(tree: Path, config: dict[str, Any], volume: Path, log: Path, *words: str) -> Iterator[Container]:
    """Start a container, with `words` in place of the image's command; nothing is left of it afterwards."""
    plan: dict[str, Any] = {
        "volume": str(volume),
        "user": [int(part) for part in config["User"].split(":")],
        "environment": dict(pair.split("=", 1) for pair in config["Env"]),
        "directory": config["WorkingDir"],
        "command": config["Entrypoint"] + list(words or config["Cmd"]),
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [*APART, sys.executable, str(Path(__file__).resolve()), "--inside", str(tree), json.dumps(plan)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield Container(process, log, plan["environment"])
    finally:
        process.kill()  # what it forked goes with it
        process.wait(PATIENCE)


def enter(tree: Path, plan: dict[str, Any]) -> None:
    """Become the container's first process: read-only root, volume, memory for /tmp; never returns.

    The mounts are the namespace's own, and end with it.
    """

    def mount(*words: str | Path) -> None:
        subprocess.run(["mount", *map(str, words)], check=True)

    mount("--make-rprivate", "/")
    mount("--bind", tree, tree)
    mount("-t", "proc", "proc", tree / "proc")
    mount("--rbind", "/dev", tree / "dev")
    mount("-t", "tmpfs", "tmpfs", tree / "tmp")
    mount("--bind", plan["volume"], tree / "var/lib/goloves")
    mount("-o", "remount,bind,ro", tree)
    loopback_up()
    os.chroot(tree)
    os.chdir(plan["directory"])
    user, group = plan["user"]
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    program = shutil.which(plan["command"][0], path=plan["environment"]["PATH"])
    if program is None:
        sys.exit(f"{plan['command'][0]} is not in the image's PATH")
    os.execve(program, plan["command"], plan["environment"])


def loopback_up() -> None:
    """Bring the loopback interface of a new network namespace up (netdevice(7))."""
    get_flags, set_flags, up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, get_flags, request), 16)
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh22x", b"lo", flags | up))


def image_size() -> int:
    """Give the bytes of the image's layers, unpacked."""
    images = json.loads(buildah("images", "--json", NAME))
    units = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}
    number, unit = images[0]["size"].split()
    return round(float(number) * units[unit.upper()])


def expect(holds: bool, otherwise: str) -> None:
    """Fail unless it holds; count it."""
    global passed
    if not holds:
        raise Wrong(otherwise)
    passed += 1


if __name__ == "__main__":
    main()
