"""Compile the server's .proto files into `descriptors.py`, or say what has changed.

python -m tests.grpc_messages               compare; 1 when the committed file is another
python -m tests.grpc_messages --regenerate  write it

The descriptors hold no code, so they fit every protobuf runtime; `messages.py` makes classes of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src" / "intermodal_server" / "front" / "grpc"
TARGET = FOLDER / "descriptors.py"
FILES = ("inference.proto", "health.proto")
WIDTH = 100
HEAD = '''"""What the .proto files say, compiled; made by `python -m tests.grpc_messages --regenerate`."""

from __future__ import annotations

'''

# Field names of JSON can be told from those of protobuf, so they are left out of what is stored.
_STRIP = """
import sys
from google.protobuf.descriptor_pb2 import FileDescriptorSet
found = FileDescriptorSet.FromString(open(sys.argv[1], "rb").read())
def strip(message):
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        strip(nested)
for file in found.file:
    for message in file.message_type:
        strip(message)
    print(file.SerializeToString(deterministic=True).hex())
"""


def compiled(python: Path) -> list[bytes]:
    """One serialized `FileDescriptorProto` for each of `FILES`, by the compiler that `python` has."""
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder, "set"))
        compiler = [str(python), "-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={target}", *FILES]
        subprocess.run(compiler, check=True)
        lines = subprocess.run([str(python), "-c", _STRIP, target], check=True, stdout=subprocess.PIPE, text=True)
    return [bytes.fromhex(line) for line in lines.stdout.split()]


def text(descriptors: list[bytes]) -> str:
    """The module that holds them."""
    lines = [HEAD.rstrip("\n"), "", "FILES = ("]
    for data in descriptors:
        lines.append("    bytes.fromhex(")
        digits = data.hex()
        lines += [f'        "{digits[start : start + WIDTH]}"' for start in range(0, len(digits), WIDTH)]
        lines.append("    ),")
    return "\n".join([*lines, ")", ""])


def main() -> int:
    """Do what the arguments say; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.grpc_messages", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--regenerate", action="store_true")
    wanted = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    from support.grpc_clients import clients_python

    now = text(compiled(clients_python()))
    if wanted.regenerate:
        TARGET.write_text(now, encoding="utf-8")
        return 0
    same = TARGET.exists() and TARGET.read_text(encoding="utf-8") == now
    print("as the .proto files say" if same else "the .proto files have changed: --regenerate")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
