"""What counts as a secret and what does not; no value is ever shown whole.

The samples are put together at run time, so that no scanner takes this file for the thing it looks for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from intermodal.errors import SecretFoundError
from intermodal.oci.digest import Digest
from intermodal.rooms.build import secrets
from intermodal.rooms.build.secrets import find_secrets, refuse_secrets
from intermodal.rooms.inspect.card import FileRow

B64 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"
WORD = "Zk4tQ9vB2nX7mR1cL8pW5sD3fG6hJ0aYuTeo"


def row(folder: Path, path: str, data: bytes | str) -> FileRow:
    source = folder / path
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(data.encode() if isinstance(data, str) else data)
    return FileRow(path, source.stat().st_size, Digest.of(b""), source)


POSITIVE = {
    "private key": ("deploy.txt", f"-----BEGIN RSA PRIVATE {'KEY'}-----\n{B64}\n-----END RSA PRIVATE KEY-----\n"),
    "private key in JSON": ("sa.json", f'{{"private_key": "-----BEGIN PRIVATE {"KEY"}-----\\n{B64}"}}'),
    "openssh": ("k", f"-----BEGIN OPENSSH PRIVATE {'KEY'}-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n"),
    "age": ("keys.txt", "AGE-SECRET-" + "KEY-1" + "PZRY9X8GF2TVDW0S3JN54KHCE6MUA" * 2),
    "aws": ("a.py", "client('AKIA" + "Q3EGRIFU7PLNXW2Z')"),
    "github": ("a.py", "ghp" + "_" + WORD),
    "github fine": ("a.py", "github_pat" + "_" + WORD + WORD),
    "gitlab": ("a.py", "glpat" + "-" + WORD[:20]),
    "hugging face": ("a.ipynb", '"token=hf' + "_" + WORD[:34] + '"'),
    "anthropic": ("a.ipynb", "sk-" + "ant-api03-" + WORD),
    "openai": ("a.py", "sk-" + "proj-" + WORD),
    "slack": ("a.py", "xox" + "b-12345678-" + WORD[:12]),
    "google": ("a.js", "AIza" + "Sy" + WORD[:33]),
    "stripe": ("a.py", "sk" + "_live_" + WORD[:24]),
    "pypi": ("x", "pypi-" + "AgEIcHlwaS5vcmc" + WORD + WORD),
    "azure": ("c.txt", "AccountKey" + "=" + (WORD * 3)[:86] + "=="),
    "jwt": ("a.py", "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0." + WORD),
    "url": ("pip.conf", "index-url = https://alice:" + WORD[:12] + "@pypi.internal/simple"),
    "database url": ("a.py", "connect('postgresql://svc:" + "t4n-G0.22@db:5432/x')"),
    "netrc": ("hosts", "machine api.internal login bob password " + WORD[:9]),
    "docker": ("registry.json", '{"auths": {"r.io": {"auth": "' + "Ym9iOmh1bnRlcjIyMg==" + '"}}}'),
    "kubernetes": ("cluster.yml", "client-key-data: " + B64),
    "python": ("a.py", "DB_PASSWORD = '" + "correct-horse-9" + "'"),
    "python bytes": ("a.py", 'secret_key: bytes = b"' + WORD[:16] + '"'),
    "json": ("c.json", '{"api_key": "' + WORD[:20] + '"}'),
    "yaml": ("c.yaml", "db:\n  password: " + "hunter2hunter2" + "\n"),
    "shell": ("run.sh", "export ACCESS_TOKEN=" + WORD[:24] + "\n"),
    "ini without spaces": ("c.ini", "[x]\nclient_secret=" + WORD[:24] + "\r\n"),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_secrets_are_found_and_not_shown(tmp_path: Path, name: str) -> None:
    path, text = POSITIVE[name]
    found = find_secrets([row(tmp_path, path, "# first line\n" + text)])
    assert found, text
    with pytest.raises(SecretFoundError) as caught:
        refuse_secrets([row(tmp_path, path, "# first line\n" + text)])
    told = str(caught.value)
    assert path in told and caught.value.exit_code == 2 and "[secrets]" in told
    for whole in (WORD[:9], B64[:12], "hunter2h", "correct-h", "t4n-G0"):
        assert whole not in told


NEGATIVE = {
    "sha256 sums": ("SHA256SUMS", f"{hashlib.sha256(b'x').hexdigest()}  model.joblib\n" * 50),
    "lock": ("pylock.toml", f'hashes = {{sha256 = "{hashlib.sha256(b"y").hexdigest()}"}}\n'),
    "password hash": ("a.py", f'password_sha256 = "{hashlib.sha256(b"z").hexdigest()}"'),
    "environment": ("a.py", 'API_KEY = os.environ["API_KEY"]\npassword = os.getenv("DB_PASSWORD")\n'),
    "placeholders": (
        "a.py",
        'password = "changeme"\napi_key = "<your key>"\ntoken = "${T}"\nsecret = "xxxxxxxxxxxx"\n',
    ),
    "reference": (
        "intermodal.toml",
        'api_keys = "file:/run/secrets/keys"\n[secrets]\nAPI_KEY = { from = "env:API_KEY" }\n',
    ),
    "names of things": (
        "a.py",
        'secret_name = "digits-prod-7"\nPASSWORD_FIELD = "user_pw_field1"\ntoken_url = "/oauth/v2/t"\n',
    ),
    "tokenizer": (
        "tokenizer_config.json",
        '{"unk_token": "[U]", "eos_token": "<|endoftext|>", "bos_token": "beginning"}',
    ),
    "vocabulary": ("vocab.json", '{"password": 4711, "secret": 12, "token": 99, "pass": 3}'),
    "key of a dictionary": ("a.py", 'row["key"] = "column_name_12345"\nsort_key = "date_created_1"\n'),
    "comparison": ("a.py", 'if password == "correct-horse-9": ...\n'),
    "type": ("a.py", "def login(password: str, api_key: Optional[str] = None) -> None: ...\n"),
    "public key": ("k.pem", f"-----BEGIN PUBLIC KEY-----\n{B64}\n-----END PUBLIC KEY-----\n"),
    "certificate": ("ca.pem", f"-----BEGIN CERTIFICATE-----\n{B64}\n-----END CERTIFICATE-----\n"),
    "marker alone": ("parse.py", "if b'-----BEGIN PRIVATE " + "KEY-----' in data: raise ValueError\n"),
    "sample of AWS": ("README.md", "AKIA" + "IOSFODNN7EXAMPLE"),
    "css of a notebook": ("a.html", "#sk-container-id-1 div.sk-toggleable__content{} .sk-estimator-doc-link:hover"),
    "urls": (
        "a.py",
        'a = "https://example.com:8080/x@y"\nb = "http://{user}:{password}@host"\nc = "http://user:pass@host"\n',
    ),
    "ordinary words": ("notes.md", "The secret of a good token is its key. password: see below\n"),
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_what_only_looks_alike_passes(tmp_path: Path, name: str) -> None:
    path, text = NEGATIVE[name]
    assert find_secrets([row(tmp_path, path, text)]) == ()
    refuse_secrets([row(tmp_path, path, text)])


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        "conf/.env.production",
        "prod.env",
        "id_rsa",
        "a/.ssh/config",
        ".netrc",
        ".pypirc",
        ".git/config",
        ".aws/credentials",
        ".docker/config.json",
        ".kube/config",
        "kubeconfig",
        "store.p12",
        "x/trust.JKS",
    ],
)
def test_names_that_are_enough(tmp_path: Path, path: str) -> None:
    (finding,) = find_secrets([row(tmp_path, path, "")])
    assert (finding.path, finding.line) == (path, 0)


@pytest.mark.parametrize(
    "path", [".env.example", "id_rsa.pub", "environment.yml", "env", "docker/config.json", "git/x"]
)
def test_names_that_are_free(tmp_path: Path, path: str) -> None:
    assert find_secrets([row(tmp_path, path, "x = 1\n")]) == ()


def test_place_rule_and_four_characters_are_told(tmp_path: Path) -> None:
    secret = "hf" + "_" + WORD[:34]
    (finding,) = find_secrets([row(tmp_path, "app/load.py", f"import os\n\nlogin('{secret}')\n")])
    assert str(finding) == "app/load.py line 3: Hugging Face token (hf_Z…)"


@pytest.mark.parametrize("before", [0, 1, 17, 33, 41])
def test_a_secret_across_two_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    monkeypatch.setattr(secrets, "PIECE_BYTES", 1024)
    monkeypatch.setattr(secrets, "OVERLAP_BYTES", 128)
    text = "x = 1\n" * 170 + " " * (4 - before % 5) + "y" * (1024 - 1020 % 6 - before) + "\n"
    (finding,) = find_secrets([row(tmp_path, "a.py", text + "key('ghp" + "_" + WORD + "')\n" + "z = 2\n" * 400)])
    assert (finding.rule, finding.line) == ("GitHub token", 172)


def test_models_are_searched_for_frames_only_and_not_to_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "MAX_BINARY_BYTES", 4 << 20)
    key = f"-----BEGIN PRIVATE {'KEY'}-----\n{B64}\n".encode()
    quiet = b"\0\x80\x04" + b"password = 'correct-horse-9'\n" + bytes(1 << 20)
    assert find_secrets([row(tmp_path, "model.bin", quiet)]) == ()
    assert [f.rule for f in find_secrets([row(tmp_path, "model.bin", quiet + key)])] == ["private key"]
    assert find_secrets([row(tmp_path, "model.bin", bytes(6 << 20) + key)]) == ()


def test_one_file_full_of_them_does_not_hide_the_others(tmp_path: Path) -> None:
    many = "".join(f"password_{i} = 'correct-horse-{i}'\n" for i in range(500))
    found = find_secrets([row(tmp_path, "a.py", many), row(tmp_path, "b.py", "t = 'ghp" + "_" + WORD + "'\n")])
    assert len(found) == secrets.MAX_FINDINGS + 1
    with pytest.raises(SecretFoundError, match="2 files look like"):
        refuse_secrets([row(tmp_path, "a.py", many), row(tmp_path, "b.py", "t = 'ghp" + "_" + WORD + "'\n")])


def test_our_own_sources_are_clean() -> None:
    package = Path(secrets.__file__).parents[2]
    rows = [FileRow(str(path.relative_to(package)), 0, Digest.of(b""), path) for path in package.rglob("*.py")]
    assert len(rows) > 20
    assert find_secrets(rows) == ()
