"""Whatever bytes come, the reader answers or raises ArtifactError, and what it accepts it has understood."""

from __future__ import annotations

import pickle
import pickletools
import zlib
from pathlib import Path

import pytest
from hostile.pickles.corpus import BENIGN, HOSTILE, WRAPPER, made, stream, wrapper_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect.pickles.explain import literal
from intermodal.rooms.inspect.pickles.reader import Reading, read_pickle
from intermodal.rooms.inspect.pickles.values import Dict, List

OPCODES = st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes])
SEEDS = [data for case, (data, _) in sorted(HOSTILE.items()) if len(data) < 2000 and case != "zlib-bomb"]
SEEDS += [stream(BENIGN), zlib.compress(stream(BENIGN)), stream(made(WRAPPER) + wrapper_state(count=2) + b"\0" * 16)]
SEEDS += [pickle.dumps({"a": [1, 2.5, ("x", b"y")], "b": {3}}, protocol) for protocol in range(6)]
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def attempt(folder: Path, data: bytes) -> Reading | None:
    path = folder / "model.pkl"
    path.write_bytes(data)
    try:
        return read_pickle(path)
    except ArtifactError:
        return None


@quick
@given(data=st.binary(max_size=300))
def test_random_bytes(tmp_path: Path, data: bytes) -> None:
    attempt(tmp_path, data)


@quick
@given(parts=st.lists(OPCODES | st.binary(max_size=6), max_size=60))
def test_random_opcodes(tmp_path: Path, parts: list[bytes]) -> None:
    attempt(tmp_path, b"\x80\x04" + b"".join(parts) + b".")


@quick
@given(seed=st.sampled_from(SEEDS), at=st.floats(0, 1), cut=st.integers(0, 8), put=st.binary(max_size=8))
def test_mutated_pickles(tmp_path: Path, seed: bytes, at: float, cut: int, put: bytes) -> None:
    position = int(at * len(seed))
    reading = attempt(tmp_path, seed[:position] + put + seed[position + cut :])
    if reading is not None:
        for finding in reading.findings:
            assert finding.message.isprintable()
            assert len(finding.message) < 2000


@quick
@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_data_is_read_as_python_reads_it(tmp_path: Path, value: object, protocol: int) -> None:
    reading = attempt(tmp_path, pickle.dumps(value, protocol))
    assert reading is not None
    assert reading.safe
    if protocol >= 3:
        assert plain(reading.root) == value
    assert literal(reading.root)


def plain(value: object) -> object:
    """A symbolic value as the Python value it stands for."""
    if isinstance(value, List):
        return [plain(member) for member in value.kept]
    if isinstance(value, Dict):
        return {key: plain(member) for key, member in value.names.items()}
    return tuple(plain(member) for member in value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_every_prefix_of_a_seed_ends_cleanly(tmp_path: Path, seed: int) -> None:
    data = SEEDS[seed]
    for end in range(0, len(data), max(1, len(data) // 40)):
        attempt(tmp_path, data[:end])
