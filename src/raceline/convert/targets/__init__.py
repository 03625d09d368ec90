"""Plans for machines that are not here: providers, precision, layout, batch, fallbacks, each with its reason.

A plan is made from the model's graph, from what the platform's profile states and from the operator lists that
the runtimes publish. It measures nothing and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from raceline.convert.rewrite import optimise
from raceline.convert.targets import ascend, intel_npu, nvidia, qualcomm
from raceline.convert.targets.drafting import GOALS, Wish
from raceline.convert.targets.graph import Facts, facts_of
from raceline.convert.targets.plan import Decision, Doubt, Estimate, Memory, Provider, TargetPlan, Transfers
from raceline.core.errors import ConfigError, UnknownNameError
from raceline.core.progress import Progress, Silent
from raceline.ir import Model, PlatformProfile
from raceline.ir.platform import PRECISIONS, EngineChoice

__all__ = [
    "GOALS",
    "Decision",
    "Doubt",
    "Estimate",
    "Memory",
    "Provider",
    "TargetPlan",
    "Transfers",
    "plan_for",
]

_Rule = Callable[[Facts, PlatformProfile, EngineChoice, Wish], TargetPlan]
_RULES: dict[str, _Rule] = {
    nvidia.TENSORRT: nvidia.plan,
    nvidia.CUDA: nvidia.plan,
    "NPU": intel_npu.plan,
    qualcomm.QNN: qualcomm.plan,
    ascend.CANN: ascend.plan,
}
# What each of these runtimes folds by itself before it runs anything.
_FOLDING = (
    "lift_constants", "fold_constants", "fold_affine", "fold_batch_norm", "fold_if", "remove_identity",
    "remove_dead_code",
)  # fmt: skip


def plan_for(
    model: Model,
    platform: PlatformProfile,
    sizes: Mapping[str, int],
    *,
    goal: str = "latency",
    allow: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> TargetPlan:
    """Plan how a model should run on an accelerator that is not here.

    Args:
        model: stays as it is; constants and BatchNorm are folded in a copy, as the runtimes do.
        platform: its profile, usually of statements.
        sizes: the size of every dynamic axis, 1 for the batch axis.
        goal: "latency" or "throughput".
        allow: precisions that are accepted; None for all. int8 is planned only where the model is quantised.
        progress: told what is at work.

    Raises:
        ConfigError: the platform is a CPU, or lists no runtime that plans are made for, or has no precision that
            is allowed.
        UnknownNameError: there is no such goal or precision.
        ShapeError: a size is missing, or the model cannot take these.
        UnsupportedOperatorError: operators without a definition.
    """
    wish = _wish(goal, PRECISIONS if allow is None else tuple(allow))
    choice = _choice(platform)
    watch = progress or Silent()
    with watch.step("fold constants"):
        folded, _ = optimise(model, passes=_FOLDING)
    with watch.step(f"plan for {platform.name}"):
        return _RULES[choice.provider](facts_of(folded, sizes), platform, choice, wish)


def _wish(goal: str, allow: tuple[str, ...]) -> Wish:
    known = next((one for one in GOALS if one == goal), None)
    if known is None:
        raise UnknownNameError("goal", goal, GOALS)
    for name in allow:
        if name not in PRECISIONS:
            raise UnknownNameError("precision", name, PRECISIONS)
    return Wish(known, allow)


def _choice(platform: PlatformProfile) -> EngineChoice:
    """The first engine of the platform that plans are made for."""
    if platform.kind == "cpu":
        raise ConfigError(
            f"{platform.name} is a CPU",
            "what runs best on a CPU is measured, not planned",
            "Run `raceline deploy` there; to plan, name an accelerator.",
        )
    found = next((choice for choice in platform.engines if choice.provider in _RULES), None)
    if found is None:
        listed = ", ".join(choice.provider for choice in platform.engines) or "no engine"
        raise ConfigError(
            f"no plan can be made for {platform.name}",
            f"its profile lists {listed}; plans are made for {', '.join(_RULES)}",
            "Add an engine with one of these providers to the profile.",
        )
    return found
