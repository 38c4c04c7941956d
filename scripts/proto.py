"""Makes what is generated from the .proto files, or checks that it is current: `python scripts/proto.py [--check]`.

- `src/goloves/v1/goloves_pb2.py`, `.pyi` and `goloves_pb2_grpc.py`: messages and stubs for Python clients.
- `src/goloves/server/grpc/described.py`: all files as one FileDescriptorSet in base64, which the server answers
  reflection from and makes its rarer messages of.

Needs grpcio-tools and mypy-protobuf.
"""

import base64
import os
import sys
import tempfile
import textwrap
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "api" / "proto"
SOURCES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
CLIENT = ["goloves/v1/goloves.proto"]
DESCRIBED = Path("goloves/server/grpc/described.py")


def generate(target: Path) -> None:
    """Generate everything below `target`, which stands for src/."""
    include = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
    client = [f"--python_out={target}", f"--mypy_out=quiet:{target}", f"--grpc_python_out={target}"]
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    compile_protos(*include, *client, *CLIENT)
    package = target / "goloves" / "v1"
    (package / "__init__.py").write_text(
        '"""Generated from api/proto/goloves/v1/goloves.proto by scripts/proto.py."""\n'
    )
    with tempfile.NamedTemporaryFile() as found:
        compile_protos(*include, f"--descriptor_set_out={found.name}", "--include_imports", *SOURCES)
        lines = textwrap.wrap(base64.b64encode(found.read()).decode(), 112)
    path = target / DESCRIBED
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f'    "{line}"\n' for line in lines)
    path.write_text(f'"""Generated from api/proto by scripts/proto.py."""\n\nDESCRIPTORS = (\n{text})\n')


def compile_protos(*arguments: str) -> None:
    """Run protoc."""
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("protoc failed; its message stands above")


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
