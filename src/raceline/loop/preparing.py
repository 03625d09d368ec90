"""The part of a journey that needs no server: read, optimise, quantise, tune, prove."""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from raceline.convert import (
    Equivalence,
    Hints,
    IRTranslator,
    RecipeBook,
    Recipes,
    Reduced,
    TuningLog,
    comes_quantised,
    open_model,
    quantise,
    read_log,
    reduce,
    tune,
    verify,
    verify_accuracy,
)
from raceline.core.errors import BackendLostError, BadModelError, ConfigError, RacelineError
from raceline.core.progress import Progress, Step
from raceline.ir import (
    FULL,
    WEIGHTS_ONLY,
    Candidate,
    Limits,
    Model,
    PlatformProfile,
    Profile,
    Shapes,
    make_inputs,
    run_reference,
    structural_sha256,
    weights,
)
from raceline.ir.store import check_room
from raceline.loop.deployment import Plan
from raceline.serve import Choice, Settings, choose, cores_here, open_session

_logger = logging.getLogger(__name__)

_LEAST_SEARCH_S = 30.0  # for quantised graphs that keep the accuracy budget


class Stages:
    """Times the named stages and tells progress of them."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[Step]:
        """Time what happens in the block."""
        began_s = time.perf_counter()
        with self.progress.step(name) as step:
            yield step
        self.seconds[name] = time.perf_counter() - began_s


@dataclass(frozen=True)
class Prepared:
    """A model that is tuned and proven.

    Attributes:
        source: the graph as it was read.
        model: the graph after the passes.
        served: the one that is fastest: one of these, or a quantised one.
        choice: how a server runs it where nothing else is asked for.
        sizes: of dynamic axes, at batch 1.
        shapes: of the inputs, at batch 1.
        translator: knows the platform, and what the passes did.
        reduced: what of fewer bits competed.
        profile: of all candidates.
        equivalence: the proof of the session that a server opens.
    """

    source: Model
    model: Model
    served: Model
    choice: Choice
    sizes: dict[str, int]
    shapes: Shapes
    translator: IRTranslator
    reduced: Reduced
    profile: Profile
    equivalence: Equivalence


def prepare(plan: Plan, stages: Stages, log: TuningLog | None = None) -> Prepared:
    """Read, optimise, tune and prove a model; nothing is written but the log.

    Raises:
        RequestError: the model, a shape or a setting is unusable; the message says what to change.
        BadModelError: no engine runs it, or none that does is equivalent.
    """
    translator = IRTranslator()
    with stages("read"):
        source, sizes = _read(plan)
        shapes = source.signature.concrete(sizes)
    check_room(plan.out, weights.total_bytes(source.program))
    with stages("optimise"):
        model = translator.optimize(source)
    book = RecipeBook(_recipes_of(log))
    reduced = _reduced(plan, source, model, translator.platform, shapes, stages, book)
    if reduced.alone and not reduced.ways:
        raise _none_of(plan.precision, reduced.notes)
    with stages("tune"):
        try:
            profile = tune(
                source, model, translator.platform, shapes=shapes, reduced=reduced, budget_s=plan.budget_s,
                progress=stages.progress, log=log,
            )  # fmt: skip
        except BadModelError as error:
            raise (
                _none_of(plan.precision, [*reduced.notes, str(error)]) if reduced.alone else error
            ) from error
    with stages("prove"):
        served, choice, profile, proof = _proven(source, model, reduced, profile, sizes, stages.progress)
    return Prepared(source, model, served, choice, sizes, shapes, translator, reduced, profile, proof)


def check_writable(folder: Path) -> None:
    """Refuse early what would fail after minutes of work.

    Raises:
        ConfigError: nothing can be written there.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise ConfigError(
            f"nothing can be written to {folder}", f"{existing} is a file", "Give another --out."
        )
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"nothing can be written to {folder}", error.strerror or str(error), "Give another --out."
        ) from error


def _read(plan: Plan) -> tuple[Model, dict[str, int]]:
    """The model, ready to be generated inputs for; and the sizes of its dynamic axes at batch 1."""
    limits = Limits() if plan.memory_limit_bytes is None else Limits(max_model_bytes=plan.memory_limit_bytes)
    hints = Hints(plan.shapes, plan.values, plan.options)
    return open_model(plan.model, limits=limits, hints=hints).settled()


def _reduced(
    plan: Plan,
    source: Model,
    model: Model,
    platform: PlatformProfile,
    shapes: Shapes,
    stages: Stages,
    book: RecipeBook,
) -> Reduced:
    """The ways of computing with fewer bits that the plan lets compete; none without data."""
    if plan.precision == FULL:
        return Reduced()
    if comes_quantised(model) and plan.precision == "auto":
        return Reduced(notes=("the model comes quantised: fp32 is what is called here as it was given",))
    data = plan.data or (quantise.GENERATED if plan.precision in WEIGHTS_ONLY else "")
    if not data:
        return Reduced(notes=("fewer bits did not compete: that needs calibration data (--data FILE)",))
    with stages("quantise"):
        samples = quantise.samples_for(source.signature, data, shapes, plan.labels)
        found = reduce(
            model, samples, quantise.budget_of(plan.metric, plan.accuracy_drop), platform, shapes=shapes,
            precisions=("int8", "bf16", *WEIGHTS_ONLY) if plan.precision == "auto" else (plan.precision,),
            wanted=plan.precision in WEIGHTS_ONLY, deadline_s=max(_LEAST_SEARCH_S, plan.budget_s),
            progress=stages.progress, book=book,
        )  # fmt: skip
    return replace(found, alone=plan.precision != "auto")


def _recipes_of(log: TuningLog | None) -> list[Recipes]:
    """How the graphs of fewer bits were made in the runs that the user's logs tell of."""
    found = []
    for path in (log.replay, log.path) if log else ():
        with suppress(OSError, ConfigError):  # that is told where the log is gone on with, or replayed
            recipes = read_log(path).head.recipes if path else None
            found += [recipes] if recipes else []
    return found


def _none_of(precision: str, reasons: Sequence[str]) -> BadModelError:
    more = "Allow a larger --accuracy-drop, or take" if "accuracy budget" in "; ".join(reasons) else "Take"
    return BadModelError(
        f"nothing computes this model at {precision} within the accuracy budget",
        "; ".join(reasons),
        f"{more} --precision auto, which keeps full precision then.",
    )


def _proven(
    source: Model,
    model: Model,
    reduced: Reduced,
    profile: Profile,
    sizes: dict[str, int],
    progress: Progress,
) -> tuple[Model, Choice, Profile, Equivalence]:
    """The graph to serve, how a server runs it, its profile, and the proof of the session that it opens.

    Where the fastest engine computes something else at the sizes of a server, which was not tuned for one shape,
    or too much is lost there, the next one gets its turn.

    Raises:
        BadModelError: none is left; says where each began to differ.
    """
    graphs = {way.variant: way.model for way in reduced.ways} | {"source": source, "optimised": model}
    while True:
        variant = profile.best().candidate.variant  # "source" where no rewrite helps that engine
        served = graphs[variant]
        chosen = replace(profile, variant=variant, model_sha256=structural_sha256(served))
        batched = served.signature.batch_axis is not None
        choice = choose(chosen, Settings(), batched=batched, cores=cores_here())
        candidate, proof, why = _prove(source, served, reduced, chosen, choice, sizes, progress)
        if proof is not None and proof.ok:
            return served, choice, chosen, proof
        _logger.warning("%s does not compute what %s means: %s", candidate, source.provenance.source, why)
        only = "" if candidate.precision == FULL else candidate.precision
        rest = profile.without(candidate.engine, candidate.variant, f"not equivalent: {why}", precision=only)
        if rest == profile:  # a server would take an engine that was never measured
            raise BadModelError(f"{candidate} does not compute what {source.provenance.source} means", why)
        profile = rest


def _prove(
    source: Model,
    model: Model,
    reduced: Reduced,
    profile: Profile,
    choice: Choice,
    sizes: dict[str, int],
    progress: Progress,
) -> tuple[Candidate, Equivalence | None, str]:
    """Hold the session that a server will open for the bundle against the reference run of the source.

    One with fewer bits is held against the accuracy budget.
    """
    candidate = Candidate(
        choice.engine,
        precision=choice.precision,
        threads=choice.threads,
        batch=choice.max_batch,
        variant=profile.variant,
    )
    cases = _cases(source, sizes)
    try:
        session = open_session(model, choice, profile)
        if choice.precision != FULL and reduced.judge is not None:
            proof = verify_accuracy(reduced.judge, candidate, session)
            return candidate, proof, "" if proof.ok else str(proof)
        proof = verify(source, model, candidate, cases, seeds=(0, 1), session=session, progress=progress)
    except (BadModelError, BackendLostError) as error:
        return candidate, None, str(error)
    return candidate, proof, "" if proof.ok else str(proof.divergence)


def _cases(model: Model, sizes: dict[str, int]) -> list[dict[str, int]]:
    """Sizes to prove equivalence at: those given, an odd batch, and other sizes of the open axes that work."""
    axis = model.signature.batch_axis
    cases = [sizes] if axis is None else [{**sizes, axis: 1}, {**sizes, axis: 3}]
    others = {name: size + 32 for name, size in sizes.items() if name != axis}
    if not others:
        return cases
    larger = {**sizes, **others}
    inputs = make_inputs(model.signature, model.signature.concrete(larger), seed=0)
    try:
        run_reference(model, inputs)
    except RacelineError:
        return cases  # sizes that the model does not take
    return [*cases, larger]
