"""`intermodal serve-store`: the local store as a registry on loopback."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import click

from intermodal.cli.output import Output, size, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make

if TYPE_CHECKING:
    from intermodal.registry.loopback import StoreServer

_SHOWN = 20


@make(
    "serve-store",
    example=[
        "intermodal serve-store",
        "docker pull localhost:5001/digits:1.0.0      # in another terminal",
        "intermodal serve-store --host 172.18.0.1     # for the nodes of kind or minikube",
    ],
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=5001, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--host", "address", default="127.0.0.1", show_default=True, help="Address of this machine to listen on.")
def command(session: Session, port: int, address: str) -> Output:
    """Offer the local store to engines as a read-only registry.

    Docker, podman, containerd, k3s, kind and minikube pull from it as from any registry; nothing has to be pushed,
    exported or loaded. An image built meanwhile is there at once. It prints the commands to use, then answers until
    Ctrl-C.

    It has no passwords and no encryption, so it listens on loopback. With another --host, everybody who reaches that
    address can read every image.
    """
    from intermodal import beside

    server = beside.serve_store(host=session.host, events=session.events, address=address, port=port)
    if not is_loopback(address):
        session.events.warning(f"everybody who reaches {server.authority} can read every image of the store")
    name = reachable_name(server)
    images = [
        (f"{repository}:{tag}", item)
        for repository, each in server.repositories.items()
        for tag, item in sorted(each.tags.items())
    ]
    example = f"{name}/{images[0][0] if images else 'NAME:TAG'}"
    commands = commands_for(example) if is_loopback(address) else commands_on_nodes(server)
    files = files_for(server, name)
    document = {
        "url": server.url,
        "registry": name,
        "images": [
            {"name": image, "reference": f"{name}/{image}", "digest": str(item.digest)} for image, item in images
        ],
        "commands": commands,
        "files": files,
    }
    rows = [(f"{name}/{image}", item.digest.short) for image, item in images[:_SHOWN]]
    rows += [(f"and {len(images) - _SHOWN} more", "")] if len(images) > _SHOWN else []
    text = [f"the local store on {server.url}, read-only; Ctrl-C ends it", ""]
    text += [table(rows, indent="  ") if rows else "  no images yet: intermodal ship PATH", ""]
    text += [table(list(commands.items()), indent="  ")]
    for path, content in files.items():
        text += ["", f"  {path}", *(f"    {line}" for line in content.splitlines())]
    if is_loopback(address):
        text += [
            "",
            "  kind, minikube  their nodes do not reach this loopback: serve-store --host ADDRESS tells what to do",
        ]
    told = session.tell(session.output(document, "\n".join(text)))
    served = server.serve()
    session.events.notice(f"answered {served.requests} requests with {size(served.sent_bytes)}")
    return told


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def reachable_name(server: StoreServer) -> str:
    """The registry in names of images: "localhost:5001", which engines trust without TLS and nodes are taught."""
    return f"localhost:{server.port}"


def commands_for(reference: str) -> dict[str, str]:
    """What to type on this machine, by program."""
    return {
        "docker": f"docker pull {reference}",
        "podman": f"podman pull --tls-verify=false {reference}",
        "skopeo": f"skopeo inspect --tls-verify=false docker://{reference}",
        "containerd": f"ctr -n k8s.io images pull --plain-http {reference}",
    }


def commands_on_nodes(server: StoreServer) -> dict[str, str]:
    """What to type so that nodes which are containers or virtual machines pull from here."""
    folder = f"/etc/containerd/certs.d/{reachable_name(server)}"
    line = f'[host.\\"{server.url}\\"]'
    return {
        "kind": (
            "for node in $(kind get nodes); do docker exec $node "
            f"sh -c 'mkdir -p {folder}; echo {line} > {folder}/hosts.toml'; done"
        ),
        "minikube": f"minikube ssh 'sudo mkdir -p {folder}; echo {line} | sudo tee {folder}/hosts.toml'",
    }


def files_for(server: StoreServer, name: str) -> dict[str, str]:
    """What to write where, so that a cluster's nodes pull `name/…` from here."""
    return {
        "k3s: /etc/rancher/k3s/registries.yaml, then restart k3s": (
            f'mirrors:\n  "{name}":\n    endpoint: ["{server.url}"]\n'
        ),
        f"containerd: /etc/containerd/certs.d/{name}/hosts.toml on every node": f'[host."{server.url}"]\n',
    }
