"""Which network of the zoo for a task on a machine: measured figures where there are some, else estimates.

What is measured is kept in the cache folder, one file a platform and network, so that a run that is stopped
half-way has lost nothing and the next one goes on where it ended.
"""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from raceline import __version__, engines, zoo
from raceline.convert import IRTranslator, tune
from raceline.core.errors import BadModelError, ConfigError, RacelineError
from raceline.core.paths import recall, store
from raceline.core.progress import Progress, Silent
from raceline.core.records import from_json
from raceline.core.units import counted, format_bytes, format_seconds
from raceline.ir import Measurement, Model, PlatformProfile, Profile, cost
from raceline.ir.probe import describe
from raceline.loop.needs import Counted, counted_in, shipped

_logger = logging.getLogger(__name__)

_BATCH = "batch"  # the axis that every network of the zoo names so
# Bytes of a number, in the order in which a rate is looked for: the first that the platform states is taken.
_PRECISIONS = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class _Kept:
    """A network's measurements as they are kept.

    Attributes:
        raceline: the version that measured.
        fingerprint: of the network's code.
        engine_version: of the engine that was fastest.
        profile: all that was measured.
    """

    raceline: str
    fingerprint: str
    engine_version: str
    profile: Profile


def recommend(
    task: str,
    *,
    platform: str | Path | PlatformProfile | None = None,
    limits: zoo.Limits | None = None,
    measure: bool = False,
    budget_s: float = 5.0,
    progress: Progress | None = None,
) -> zoo.Recommendation:
    """Rank the zoo's networks of a task for a machine.

    Args:
        task: one of `zoo.TASKS`, or the field's word for it.
        platform: a profile, the name of one that ships, the path of one, or None for this machine.
        limits: what a network may cost.
        measure: tune those of which no measurement is kept; this machine only.
        budget_s: how long the tuner may time each of them.
        progress: told of each network.

    Raises:
        UnknownNameError: there is no such task.
        ConfigError: the platform's file is damaged, cannot be measured from here, or no network keeps the limits.
        MissingDependencyError: torch is not installed.
    """
    entries = zoo.list(task)
    watch = progress or Silent()
    machine = IRTranslator(platform_profile=platform).platform
    if measure and machine.key != describe().key:
        raise ConfigError(
            f"{machine.name} cannot be measured here",
            f"this machine is {describe().name}",
            "Run the command there, or leave --measure out for estimates.",
        )
    figures = {}
    with watch.step(f"look at {len(entries)} networks", total=len(entries)) as step:
        for entry in entries:
            figures[entry.name] = _figures(entry, machine, budget_s if measure else None, watch)
            step.advance(note=entry.name)
    return zoo.recommend(entries, figures, machine.name, limits or zoo.Limits())


def _figures(
    entry: zoo.Entry, machine: PlatformProfile, budget_s: float | None, progress: Progress
) -> zoo.Figures:
    """What a network costs: as kept, else measured within the budget (None: not), else estimated."""
    kept = _recalled(entry, machine)
    failure = ""
    if kept is None and budget_s is not None:
        try:
            kept = _measured(entry, machine, budget_s, progress)
        except BadModelError as error:
            failure = str(error)
    if kept is not None:
        best = kept.best(batch=1)
        how = f"{best.candidate}, median of {counted(best.runs, 'call')}"
        return zoo.Figures(best.latency_s, best.memory_bytes, True, how)
    if failure:
        return zoo.Figures(None, None, False, f"no engine here runs it: {failure}")
    return _estimate(_counted(entry, progress), machine)


def _kept_name(entry: zoo.Entry, machine: PlatformProfile) -> str:
    return f"zoo/measured/{machine.key}/{entry.name}.json"


def _recalled(entry: zoo.Entry, machine: PlatformProfile) -> Profile | None:
    """The measurements that are kept; None where there are none, or they are of something else, which is told."""
    name = _kept_name(entry, machine)
    text = recall(name)
    if text is None:
        return None
    try:
        kept = from_json(_Kept, json.loads(text))
        best = kept.profile.best(batch=1)
    except (ValueError, RacelineError) as error:
        _logger.warning("%s: what is kept of it is damaged and not used (%s)", entry.name, error)
        return None
    outdated = _outdated(kept, entry, machine, best)
    if outdated:
        _logger.warning("%s: what was measured is not used: %s; --measure renews it", entry.name, outdated)
        return None
    return kept.profile


def _outdated(kept: _Kept, entry: zoo.Entry, machine: PlatformProfile, best: Measurement) -> str:
    """Why kept measurements say nothing any more; empty where they do."""
    engine = best.candidate.engine
    if kept.profile.platform != machine.key:
        return f"it was another machine ({kept.profile.platform})"
    if kept.raceline != __version__:
        return f"it was Raceline {kept.raceline}"
    if kept.fingerprint != zoo.fingerprint(entry):
        return "the network's code has changed"
    try:
        version = engines.load(engine).version()
    except RacelineError:
        # Kept of a machine that has the engine: the figures hold there.
        return "" if machine.key != describe().key else f"{engine} is not installed any more"
    return "" if version == kept.engine_version else f"{engine} was {kept.engine_version}"


def _measured(entry: zoo.Entry, machine: PlatformProfile, budget_s: float, progress: Progress) -> Profile:
    """Tune a network on this machine and keep what was measured.

    Raises:
        BadModelError: no engine runs it rightly.
    """
    source, model = _graphs(entry, progress)
    shapes = source.signature.concrete({_BATCH: 1})
    with progress.step(f"measure {entry.name}"):
        profile = tune(
            source, model, machine, shapes=shapes, batches=(1,), budget_s=budget_s, progress=progress
        )
    engine = profile.best(batch=1).candidate.engine
    kept = _Kept(__version__, zoo.fingerprint(entry), engines.load(engine).version(), profile)
    store(_kept_name(entry, machine), json.dumps(asdict(kept)))
    return profile


def _graphs(entry: zoo.Entry, progress: Progress) -> tuple[Model, Model]:
    """A network as its export is read, and optimised."""
    with tempfile.TemporaryDirectory(prefix="raceline-zoo-") as folder, progress.step(f"export {entry.name}"):
        translator = IRTranslator(input_format="onnx")
        read = translator.parse(zoo.export_onnx(entry.name, Path(folder) / "model.onnx"))
    values = {spec.name: spec.values for spec in entry.inputs}
    inputs = tuple(replace(spec, values=values[spec.name]) for spec in read.signature.inputs)
    # Every item is a picture or a text of its own: the zoo's contract test proves it.
    source = replace(read, signature=replace(read.signature, inputs=inputs, batch_axis=_BATCH))
    return source, translator.optimize(source)


def _counted(entry: zoo.Entry, progress: Progress) -> Counted:
    """What a network needs: from the table that ships, else from the cache, else counted in its export."""
    known = shipped(entry)
    if known is not None:
        return known
    name = f"zoo/needs/{entry.name}-{__version__}-{zoo.fingerprint(entry)}.json"
    text = recall(name)
    if text is not None:
        try:
            return from_json(Counted, json.loads(text))
        except (ValueError, ConfigError) as error:
            _logger.warning("%s: what is kept of it is damaged and counted again (%s)", entry.name, error)
    needs = count_network(entry, progress)
    store(name, json.dumps(asdict(needs)))
    return needs


def count_network(entry: zoo.Entry, progress: Progress | None = None) -> Counted:
    """Export a network, optimise it and count what one item needs; takes seconds to a minute."""
    _, model = _graphs(entry, progress or Silent())
    return counted_in(entry, cost(model, {_BATCH: 1}))


def _estimate(needs: Counted, machine: PlatformProfile) -> zoo.Figures:
    """What a network costs where each step is as fast as the machine computes or moves, all cores at work."""
    rates = ((precision, machine.peak_ops_per_s(precision)) for precision in _PRECISIONS)
    precision, peak = next(((name, rate) for name, rate in rates if rate), ("", 0.0))
    bandwidth = machine.memory_bytes_per_s
    if not peak or not bandwidth:
        lacking = "arithmetic" if not peak else "memory"
        return zoo.Figures(
            None, None, False, f"the profile of {machine.name} states no rate of its {lacking}"
        )
    width = _PRECISIONS[precision]
    latency_s = sum(
        step.count * max(step.flops / peak, width * step.elements / bandwidth) for step in needs.steps
    )
    traffic = width * needs.elements
    how = (
        f"roofline in {precision}: {needs.flops / 1e9:.3g} GFLOP at {peak / 1e9:.4g} GFLOP/s, "
        f"{format_bytes(traffic)} at {bandwidth / 1e9:.3g} GB/s"
    )
    return zoo.Figures(latency_s, width * needs.least_elements, False, how)


def lines(found: zoo.Recommendation) -> Sequence[str]:
    """A recommendation as lines for people."""
    shown = [f"{found.task} on {found.platform}: {found.rule}"]
    for number, pick in enumerate(found.picks, 1):
        shown += _described(f"{number}.", pick)
    shown += [""] * bool(found.refused)
    for pick in found.refused:
        shown += _described("no", pick)
    return shown


def _described(mark: str, pick: zoo.Verdict) -> list[str]:
    costs = pick.figures
    known = "measured" if costs.measured else "estimate"
    latency = "unknown" if costs.latency_s is None else format_seconds(costs.latency_s)
    memory = "unknown" if costs.memory_bytes is None else format_bytes(costs.memory_bytes)
    about = "" if costs.measured else "~"
    head = f"{mark:>3} {pick.name}  {about}{latency}, {about}{memory} ({known}: {costs.how})"
    published = [f"    published: {pick.published}"] if pick.published else []
    return [head, *published, f"    {pick.why}"]
