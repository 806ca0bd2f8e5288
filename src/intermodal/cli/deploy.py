"""`intermodal deploy IMAGE`: a rollout, watched until it is over."""

from __future__ import annotations

import click

from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make

STRATEGIES = ("auto", "canary", "blue-green", "shadow", "rolling")


@make(
    "deploy",
    example=[
        "intermodal deploy digits:1.0.0",
        "intermodal deploy examples/digits --to sandbox --port 8081",
        "intermodal deploy digits:1.1.0 --to ssh://ml@gpu1.example.com --detach",
    ],
)
@click.argument("image")
@click.option("--to", "target", metavar="TARGET", help="local, ssh://HOST, or sandbox for trying out.")
@click.option("--detach", is_flag=True, help="Leave the watching to a process of its own.")
@click.option("--strategy", type=click.Choice(STRATEGIES), help="How it gets its traffic.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the gateway.")
@click.option("--host", "offered_host", metavar="NAME", help="Only requests for this host.")
@click.option("--path", "offered_path", metavar="PATH", help="Only requests below this path.")
@click.option("--replicas", type=click.IntRange(min=1), help="Containers of each revision.")
@click.option("--bake", metavar="TIME", help='How long it is judged on with all traffic: "90s", "30m".')
@click.option("--api-keys", metavar="FILE", help="Whose keys the server takes; needed when [serve] api_keys is set.")
@click.option("--golden-key", metavar="REFERENCE", help="The API key of golden cases: env:NAME or file:PATH.")
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, help="A variable of the server; repeatable.")
def command(
    session: Session,
    image: str,
    target: str | None,
    detach: bool,
    strategy: str | None,
    port: int | None,
    offered_host: str | None,
    offered_path: str | None,
    replicas: int | None,
    bake: str | None,
    api_keys: str | None,
    golden_key: str | None,
    variables: tuple[str, ...],
) -> Output:
    """Roll an image out, judged all the way, and back when it is worse.

    Golden cases come first, then a little traffic, then all of it. What [deploy] of the project says counts: the
    project's at an existing path, or that of the current folder when it is this model's; options win over it. When
    the new revision is worse, it goes back by itself, and the command exits with 1 and the reason. Ctrl-C leaves the
    rollout where it stands; `intermodal watch` goes on with it.

    IMAGE is NAME[:TAG], a digest, or a project's path (built when needed; an existing path wins over a name).
    """
    from intermodal import rollouts
    from intermodal.cli.deployments import document, text
    from intermodal.errors import InputError
    from intermodal.rooms.deploy.wish import Overrides

    environment = {}
    for variable in variables:
        name, separator, value = variable.partition("=")
        if not name or not separator:
            raise InputError(f"--env {variable!r} is no variable", next="--env NAME=VALUE")
        environment[name] = value
    wanted = Overrides(
        target=target,
        port=port,
        host=offered_host,
        path=offered_path,
        strategy=strategy,
        replicas=replicas,
        bake=bake,
        environment=environment,
        api_keys=api_keys,
        golden_key=golden_key,
    )
    found = rollouts.deploy(image, host=session.host, events=session.events, overrides=wanted, detach=detach)
    first = "nothing to do: this image has the traffic\n" if found.nothing_to_do else ""
    return session.output(document(found), first + text(found), 1 if found.went_back else 0)
