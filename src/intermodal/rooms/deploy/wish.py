"""What a user wants deployed, and how: `[deploy]` of the project, with what the command line says over it, as values.

Takes settings, hands on a `Wish`. Nothing here does I/O.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from intermodal.errors import InputError
from intermodal.project.schema import Analysis, Deploy, Notify, Secret
from intermodal.project.schema import Step as StepTable
from intermodal.rooms.deploy.revision import Exposure, Settings
from intermodal.rooms.deploy.rollout import Plan, Step, make_plan
from intermodal_server.contract import ENV_RING

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FIRST_BAKE_S = 2.0
DEFAULT_STEPS = (Step(5), Step(25), Step(50))


class Wish(Struct, frozen=True):
    """Everything about a deployment but the image."""

    target: str = "local"
    exposure: Exposure = Exposure()
    settings: Settings = Settings()
    strategy: str = "auto"
    steps: tuple[Step, ...] = DEFAULT_STEPS
    bake_s: float = 1800.0
    max_hold_s: float | None = None
    analysis: Analysis = Analysis()
    notify: Notify = Notify()
    golden_key: str = ""  # reference, never the key
    notices: tuple[str, ...] = ()

    def plan(self, *, first: bool, requests_per_s: float | None) -> Plan:
        """The plan of a rollout; the first revision of all has nothing to be compared with, and bakes no longer than
        its golden cases take.

        Raises:
            InputError: the steps make no plan.
        """
        if first:
            return Plan((), bake_s=_FIRST_BAKE_S, held_max_s=self.max_hold_s)
        try:
            return make_plan(
                self.strategy,  # type: ignore[arg-type]
                self.steps,
                bake_s=self.bake_s,
                replicas=self.settings.replicas,
                requests_per_s=requests_per_s,
                held_max_s=self.max_hold_s,
            )
        except ValueError as error:
            raise InputError("the steps under [deploy] make no plan", found=str(error)) from error


class Overrides(Struct, frozen=True):
    """What the command line says over the project; None leaves it."""

    target: str | None = None
    port: int | None = None
    host: str | None = None
    path: str | None = None
    strategy: str | None = None
    replicas: int | None = None
    bake: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    api_keys: str | None = None  # a file of them, for the server
    golden_key: str | None = None  # reference


def seconds(text: str) -> float:
    """A time in seconds.

    >>> seconds("1.5h")
    5400.0

    Raises:
        InputError: it is none.
    """
    try:
        return float(text[:-1]) * _UNITS_S[text[-1:]]
    except (ValueError, KeyError):
        raise InputError(f"not a time: {text!r}", next='write it as "90s", "30m", "1h" or "2d"') from None


def wish_of(
    deploy: Deploy, secrets: dict[str, Secret], overrides: Overrides, *, root: Path | None = None, mode: str = ""
) -> Wish:
    """What is wanted.

    Args:
        deploy: the project's table, or its defaults.
        secrets: the project's.
        overrides: of the command line.
        root: folder that relative paths start from.
        mode: how the server runs the model, as `check` measured.

    Raises:
        InputError: something contradicts itself.
    """
    target = overrides.target or deploy.target or "local"
    exposure = Exposure(
        port=overrides.port or deploy.port,
        address=deploy.address,
        host=overrides.host or deploy.host or "*",
        path=overrides.path or deploy.path,
        certificate=_absolute(deploy.certificate, root),
        key=_absolute(deploy.key, root),
        sticky=(deploy.sticky or "").lower(),
    )
    settings = Settings(
        replicas=overrides.replicas or deploy.replicas,
        mode=mode,
        environment=tuple(sorted({**_ring(deploy.ring), **overrides.environment}.items())),
        cpu=deploy.resources.cpu or "",
        memory=deploy.resources.memory or "",
        gpu=deploy.resources.gpu,
        secrets=tuple(sorted((name, one.from_) for name, one in secrets.items())),
    )
    notices = ("[deploy.autoscale] is for kubernetes, without effect here",) if deploy.autoscale else ()
    return Wish(
        target=target,
        exposure=exposure,
        settings=settings,
        strategy=overrides.strategy or deploy.strategy,
        steps=tuple(_step(one) for one in deploy.steps) or DEFAULT_STEPS,
        bake_s=seconds(overrides.bake or deploy.bake),
        max_hold_s=seconds(deploy.max_hold) if deploy.max_hold else None,
        analysis=deploy.analysis,
        notify=deploy.notify,
        golden_key=overrides.golden_key or deploy.golden_key or "",
        notices=notices,
    )


def _ring(most: int) -> dict[str, str]:
    """The variable by which a server keeps its last predictions, so that those of two revisions can be compared."""
    return {ENV_RING: str(most)} if most else {}


def _step(table: StepTable) -> Step:
    default = Step()
    if table.pause:
        return Step(pause=True)
    return Step(
        weight_percent=table.weight or 0,
        min_requests=table.min_requests or default.min_requests,
        max_time_s=seconds(table.max_time) if table.max_time else default.max_time_s,
    )


def _absolute(path: str | None, root: Path | None) -> str:
    if not path:
        return ""
    return str((root / path).absolute() if root is not None else Path(path).absolute())
