"""Names that never enter an image, whatever they contain.

Takes a path relative to the project; says why it stays out. Two kinds: what holds secrets by its very purpose
(asking for it by name is an error), and what no image needs (version control, caches, environments; silently
left out).

Rules, in order: a folder of the lists below decides for all that is in it; then the file's name; examples
(`.env.example`) and public halves (`id_rsa.pub`) are free.
"""

from __future__ import annotations

import re

_SECRET_FOLDERS = frozenset((".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".gcloud", ".password-store"))
_NEEDLESS_FOLDERS = frozenset(
    (
        ".git",
        ".hg",
        ".svn",
        ".bzr",
        "__pycache__",
        ".venv",
        "node_modules",
        ".tox",
        ".nox",
        ".eggs",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        ".ipynb_checkpoints",
        ".idea",
        ".vscode",
        ".terraform",
    )
)
_SECRET_NAMES = re.compile(
    r"\.env|\.env\.(?!example$|sample$|template$|dist$).+|.+\.env|\.envrc"
    r"|id_(?:rsa|dsa|ecdsa|ecdsa_sk|ed25519|ed25519_sk)"
    r"|[._]netrc|\.pypirc|\.git-credentials|\.dockercfg|\.pgpass|\.my\.cnf|\.boto|\.s3cfg|\.htpasswd|\.vault-token"
    r"|kubeconfig|.+\.kubeconfig|.*\.(?:p12|pfx|jks|keystore|kdbx|ppk)|credentials\.json|client_secrets?\.json",
    re.IGNORECASE,
)
_NEEDLESS_NAMES = re.compile(r".*\.py[co]|\.DS_Store|Thumbs\.db|\.gitignore|\.gitattributes|\.git|\.coverage")


def secret_name(path: str) -> str:
    """Why a file of this name is taken for a secret without looking into it; "" when it is not.

    >>> secret_name("conf/.env"), secret_name("conf/.env.example"), secret_name("keys/id_rsa.pub")
    ('the name .env', '', '')
    """
    *folders, name = path.split("/")
    for folder in folders:
        if folder in _SECRET_FOLDERS:
            return f"a file below {folder}/"
        if folder == ".git":
            return "a file below .git/"
    return f"the name {name}" if _SECRET_NAMES.fullmatch(name) else ""


def needless_name(path: str) -> bool:
    """Whether a path is of a kind that no image needs: version control, caches, environments."""
    *folders, name = path.split("/")
    return any(folder in _NEEDLESS_FOLDERS for folder in (*folders, name)) or bool(_NEEDLESS_NAMES.fullmatch(name))
