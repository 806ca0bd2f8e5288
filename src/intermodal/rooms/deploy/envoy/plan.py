"""What a gateway shall do, as one value: models by host and path, their revisions, and who gets which traffic.

Takes nothing, hands on `GatewayPlan`, from which `render` makes Envoy's files. Targets keep the plan as JSON and change
it model by model.

Names: a revision has a cluster for each kind of traffic, so that each has statistics of its own: `digits_r3` for what
users ask and the judge counts; `digits_r3_aside` for what is asked by header, golden cases, and everything that is no
inference (GET: health, metadata, pages); `digits_r3_mirror` for copies. A model's name is a DNS label, so `_` parts.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from intermodal.errors import EngineError, InputError
from intermodal.rooms.deploy.revision import Exposure

REVISION_HEADER = "x-intermodal-revision"
GOLDEN_HEADER = "x-intermodal-golden"
NOT_READY_HEADER = "x-intermodal-not-ready"  # of a server's answer: the request was not even looked at
ASIDE, MIRROR = "_aside", "_mirror"


class Upstream(Struct, frozen=True, order=True):
    """Where one replica answers, as the gateway sees it: an IP address and port."""

    address: str
    port: int


class Group(Struct, frozen=True):
    """The replicas of one revision."""

    revision: int
    upstreams: tuple[Upstream, ...] = ()


class Site(Struct, frozen=True):
    """One model on the gateway."""

    model: str
    exposure: Exposure = Exposure()
    groups: tuple[Group, ...] = ()
    weights: tuple[tuple[int, int], ...] = ()  # revision and percent; they add up to 100, or there are none yet
    mirror: int | None = None  # the revision that gets copies
    retry_reset: bool = True  # ask again when a connection broke with a request under way: inference changes nothing

    def with_group(self, group: Group) -> Site:
        """The site with this revision's replicas, whatever they were before."""
        others = [one for one in self.groups if one.revision != group.revision]
        return replace(self, groups=tuple(sorted([*others, group], key=lambda one: one.revision)))

    def without(self, revision: int) -> Site:
        """The site without a revision and its share, which must be 0."""
        return replace(
            self,
            groups=tuple(one for one in self.groups if one.revision != revision),
            weights=tuple(pair for pair in self.weights if pair[0] != revision),
            mirror=None if self.mirror == revision else self.mirror,
        )

    def group(self, revision: int) -> Group | None:
        """The replicas of a revision."""
        return next((one for one in self.groups if one.revision == revision), None)


class GatewayPlan(Struct, frozen=True):
    """Everything one gateway does."""

    sites: tuple[Site, ...] = ()

    def site(self, model: str) -> Site | None:
        """The site of a model."""
        return next((one for one in self.sites if one.model == model), None)

    def with_site(self, site: Site) -> GatewayPlan:
        """The plan with this site, whatever the model had before."""
        others = [one for one in self.sites if one.model != site.model]
        return GatewayPlan(tuple(sorted([*others, site], key=lambda one: one.model)))

    def without(self, model: str) -> GatewayPlan:
        """The plan without a model."""
        return GatewayPlan(tuple(one for one in self.sites if one.model != model))


def cluster_name(model: str, revision: int, kind: str = "") -> str:
    """The cluster of a revision, for one kind of traffic: "", `ASIDE` or `MIRROR`.

    >>> cluster_name("digits", 3, ASIDE)
    'digits_r3_aside'
    """
    return f"{model}_r{revision}{kind}"


def clusters(site: Site) -> tuple[tuple[str, Group], ...]:
    """Every cluster of a site, with its replicas."""
    found = []
    for group in site.groups:
        kinds = ("", ASIDE, MIRROR) if group.revision == site.mirror else ("", ASIDE)
        found += [(cluster_name(site.model, group.revision, kind), group) for kind in kinds]
    return tuple(found)


def faults(plan: GatewayPlan) -> tuple[str, ...]:
    """Everything in a plan that contradicts itself; empty when nothing does."""
    found: list[str] = []
    offered: dict[tuple[str, int, str, str], str] = {}
    tls: dict[tuple[str, int], bool] = {}
    for site in plan.sites:
        exposure, known = site.exposure, {group.revision for group in site.groups}
        if site.weights and sum(percent for _, percent in site.weights) != 100:
            found.append(f"{site.model}: weights add up to {sum(percent for _, percent in site.weights)}, not to 100")
        for revision in [revision for revision, _ in site.weights] + ([site.mirror] if site.mirror else []):
            if revision not in known:
                found.append(f"{site.model}: revision {revision} has traffic and no replicas")
        if not exposure.path.startswith("/"):
            found.append(f"{site.model}: path {exposure.path!r} does not begin with /")
        if bool(exposure.certificate) != bool(exposure.key):
            found.append(f"{site.model}: a certificate and its key are given together")
        place = (exposure.address, exposure.port, exposure.host, exposure.path.rstrip("/"))
        if place in offered:
            where = f"{exposure.host} {exposure.path} on port {exposure.port}"
            found.append(
                f"{site.model} and {offered[place]} are both offered as {where}: give one another host or path"
            )
        offered[place] = site.model
        if tls.setdefault(place[:2], bool(exposure.certificate)) is not bool(exposure.certificate):
            found.append(f"port {exposure.port} speaks TLS for some models only")
    return tuple(found)


def refuse_misfit(plan: GatewayPlan, model: str, exposure: Exposure) -> None:
    """Return when a model can be offered so, beside those that a gateway has.

    Raises:
        InputError: its place is taken, or it contradicts itself.
    """
    site = replace(plan.site(model) or Site(model), exposure=exposure)
    if wrong := faults(plan.with_site(site)):
        raise InputError(
            f"{model} does not fit on this gateway",
            found=wrong,
            next="change host, path or port under [deploy], or give --host, --path or --port",
        )


def refuse_weight(plan: GatewayPlan, model: str, revision: int) -> None:
    """Return when a revision has no share of the traffic.

    Raises:
        EngineError: it has one, so it must not be stopped.
    """
    site = plan.site(model)
    if site is not None and (percent := dict(site.weights).get(revision)):
        raise EngineError(
            f"revision {revision} of {model} still has traffic",
            found=f"{percent} %",
            next="it is stopped when another revision has all of it",
        )
