"""Makes what is generated from the .proto files, or checks that it is current: `python scripts/proto.py [--check]`.

- `src/goloves/v1/goloves_pb2.py`, `.pyi` and `goloves_pb2_grpc.py`: messages and stubs for Python clients.
- `src/goloves/server/grpc/descriptors.binpb`: all files as one FileDescriptorSet, which the server answers reflection
  from and makes its rarer messages of.

Needs grpcio-tools and mypy-protobuf.
"""

import os
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "api" / "proto"
SOURCES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
CLIENT = ["goloves/v1/goloves.proto"]
DESCRIPTORS = Path("goloves/server/grpc/descriptors.binpb")


def generate(target: Path) -> None:
    """Generate everything below `target`, which stands for src/."""
    (target / DESCRIPTORS).parent.mkdir(parents=True, exist_ok=True)
    include = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
    client = [f"--python_out={target}", f"--mypy_out=quiet:{target}", f"--grpc_python_out={target}"]
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for arguments in (
        [*include, *client, *CLIENT],
        [*include, f"--descriptor_set_out={target / DESCRIPTORS}", "--include_imports", *SOURCES],
    ):
        if protoc.main(["protoc", *arguments]) != 0:
            sys.exit("protoc failed; its message stands above")
    package = target / "goloves" / "v1"
    (package / "__init__.py").write_text(
        '"""Generated from api/proto/goloves/v1/goloves.proto by scripts/proto.py."""\n'
    )


def outdated() -> list[str]:
    """Name the generated files that are not what the .proto files give."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        names = [path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()]
        return sorted(
            str(name)
            for name in names
            if not (ROOT / "src" / name).exists() or (ROOT / "src" / name).read_bytes() != (fresh / name).read_bytes()
        )


def main() -> None:
    """Run the command."""
    if sys.argv[1:] == ["--check"]:
        old = outdated()
        if old:
            sys.exit(f"not current, run `make proto`: {', '.join(old)}")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        generate(ROOT / "src")


if __name__ == "__main__":
    main()
