"""What podman is asked for, and how its refusals are told."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.engines import need

from intermodal.engine.driver import HARDENED, Spec
from intermodal.engine.podman_seccomp import tightened, write_profile
from intermodal.engine.podman_words import options, refusal, size_bytes
from intermodal.engine.seccomp import NAMESPACE_FLAGS

SPEC = Spec(
    image="abc",
    name="one",
    policy=HARDENED,
    environment={"A": "b c"},
    labels={"l": "v"},
    folder=Path("/nowhere"),
    binds={"/run/intermodal": Path("/x,y")},
    egress=False,
    publish=None,
    healthcheck={"Test": ["CMD", "/p", "health"], "Interval": 10_000_000_000, "Timeout": 5_000_000_000, "Retries": 3},
)


def test_every_measure_is_asked_for() -> None:
    words = options(SPEC, timers=True)
    for word in ("--read-only=true", "--read-only-tmpfs=false", "--cap-drop=ALL", "--network=none", "--ipc=private"):
        assert word in words
    assert "--security-opt=no-new-privileges" in words
    assert not [word for word in words if "unconfined" in word or "privileged" in word.replace("no-new-privileges", "")]
    assert words[words.index("--user") + 1] == "65532:65532"
    assert "A=b c" in words


def test_a_measure_that_is_not_wanted_is_not_asked_for() -> None:
    policy = replace(HARDENED, read_only_root=False, drop_capabilities=False, no_new_privileges=False, seccomp=False)
    words = options(replace(SPEC, policy=policy, egress=True, publish=0), timers=True)
    assert "--read-only=false" in words
    assert "--security-opt=seccomp=unconfined" in words
    assert not {"--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"} & set(words)
    assert words[words.index("--publish") + 1] == "127.0.0.1::8080"


def test_limits_are_never_above_our_own() -> None:
    words = options(SPEC, timers=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    name, _, values = words[words.index("--ulimit") + 1].partition("=")
    soft, _, most = values.partition(":")
    assert name == "nofile"
    assert soft == most
    assert hard == resource.RLIM_INFINITY or int(most) <= hard


def test_the_health_check_of_the_image_is_handed_over() -> None:
    words = options(SPEC, timers=True)
    assert json.loads(words[words.index("--health-cmd") + 1]) == ["CMD", "/p", "health"]
    assert words[words.index("--health-interval") + 1] == "10s"
    assert "disable" in options(SPEC, timers=False)
    assert "--health-cmd" not in options(replace(SPEC, healthcheck={"Test": ["NONE"]}), timers=True)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ('level=error msg="cannot find UID/GID for user 54321"', "--add-subuids"),
        ("Error: runc create failed: unable to setup user: invalid argument", "--add-subuids"),
        ('Error: exec: "newuidmap": executable file not found in $PATH', "apt install uidmap"),
        ("cannot clone: Operation not permitted\nError: cannot re-exec process", "max_user_namespaces"),
        ('Error: slirp4netns failed: "open(/dev/net/tun): Permission denied"', "/dev/net/tun"),
    ],
)
def test_refusals_say_what_to_change(said: str, remedy: str) -> None:
    assert remedy in refusal(said).next[0]


def test_podmans_chatter_is_not_evidence() -> None:
    noise = 'time="…" level=warning msg="x"\ntime="…" level=error msg="no systemd"\nError: disk full\n'
    assert refusal(noise).found == ("Error: disk full",)
    assert refusal("").found == ("it said nothing",)


def test_sizes_as_podman_prints_them() -> None:
    assert size_bytes("3.5MiB / 4GiB") == 3_670_016
    assert size_bytes(" 12kB") == 12_000
    assert size_bytes("--") == 0


PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "syscalls": [
        {"names": ["read", "clone", "clone3", "unshare", "mount"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["bpf", "setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    ],
}


def allowed(profile: dict[str, object]) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for rule in profile["syscalls"]:  # type: ignore[attr-defined]
        if rule["action"] == "SCMP_ACT_ALLOW":
            for name in rule["names"]:
                found.setdefault(name, []).append(rule.get("args"))
    return found


def test_the_tightened_profile_allows_threads_but_no_namespaces() -> None:
    found = tightened(PROFILE, "amd64")
    assert set(allowed(found)) == {"read", "clone"}
    (arguments,) = allowed(found)["clone"]
    assert arguments == [{"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    # glibc falls back to clone only when clone3 does not exist
    assert {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38} in found["syscalls"]
    assert PROFILE["syscalls"][2] in found["syscalls"]  # type: ignore[index]
    assert PROFILE["syscalls"][0]["names"][1] == "clone", "the given profile is not changed"  # type: ignore[index]


def test_a_missing_or_damaged_profile_is_left_to_podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.engine.podman_seccomp.PLACES", (tmp_path / "no", tmp_path / "bad"))
    assert write_profile(tmp_path, "amd64") is None
    (tmp_path / "bad").write_text("{")
    assert write_profile(tmp_path, "amd64") is None
    (tmp_path / "bad").write_text(json.dumps(PROFILE))
    written = write_profile(tmp_path, "arm64")
    assert written is not None
    assert "mount" not in allowed(json.loads(written.read_bytes()))


def test_the_installed_profile_can_be_tightened(tmp_path: Path) -> None:
    need("podman")  # brings the profile
    written = write_profile(tmp_path, "amd64")
    assert written is not None
    found = allowed(json.loads(written.read_bytes()))
    assert {"read", "execve", "futex", "clone"} <= set(found)
    assert not {"unshare", "setns", "mount", "ptrace", "keyctl", "clone3"} & set(found)
