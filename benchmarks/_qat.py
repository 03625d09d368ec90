"""Whether training in few bits costs accuracy, and what it saves: `python -m benchmarks._qat [--json]`.

Two networks of the zoo learn real pictures from several seeds. Each is then trained on as it will run in few bits,
and written as a bundle; the same FP32 network is quantised after training by ONNX Runtime and by NNCF. All answer
the same test items, which nothing was chosen by: epochs, 4-bit layers and the peers' way of calibration are chosen
on training and validation items. The bundle answers as it was written, on the engine that it is for.

Because training goes on, a control trains on in floating point by the same recipe, for as many epochs.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import _int8_peers
from raceline import engines, zoo
from raceline.convert import IRTranslator, qat
from raceline.convert.quantise import scheme_for
from raceline.ir import Bundle, Model, this_machine
from raceline.ir.engine_rules import multiplies_exactly

Array = np.ndarray[Any, Any]
NETS = ("resnet18_small", "mobilenet_v2_small")
DATA = "mnist_5k"
ENGINE = "onnxruntime"
SEEDS = 5
OF_FULL_SIZE = 0.248  # a quarter is the aim; the manifest that training ends with is a little longer
CALIBRATION = 384  # training items, for all alike
RECIPES = {name: qat.Recipe(epochs=6, learning_rate=0.02, distil=0.5) for name in NETS}
FULL, OURS, CONTROL = "fp32", "qat", "fp32, trained on"
PEERS = {"onnxruntime": "ORT PTQ", "nncf": "NNCF PTQ"}
DRAWS = 10_000
_LIMIT_S = 7200.0


@dataclass
class Proof:
    """One network from one seed.

    Attributes:
        right: variant -> for each test item whether its class was found.
        size_bytes: variant -> of all its files together.
        validation: variant -> accuracy by which a peer's way of calibration was chosen.
        ways: peer -> the way of calibration that was chosen.
        failed: what a peer refused, by way.
        few: how many layers have 4-bit weights.
        seconds: what each part took.
        cpu_seconds: of that, what this process computed; without the peers' processes.
    """

    net: str
    seed: int
    right: dict[str, list[bool]] = field(default_factory=dict)
    size_bytes: dict[str, int] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    ways: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    few: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)


# one network from one seed, in a process of its own


def prove(net: str, seed: int, name: str, folder: Path) -> Proof:
    """Train, train in few bits, quantise by others, and answer the test items by each."""
    import torch

    torch.set_num_threads(1)
    data, proof, began_s = zoo.data(name), Proof(net, seed), time.perf_counter()

    def done(part: str) -> None:
        now_s, used_s = time.perf_counter() - began_s, time.process_time()
        proof.seconds[part] = round(now_s - sum(proof.seconds.values()), 1)
        proof.cpu_seconds[part] = round(used_s - sum(proof.cpu_seconds.values()), 1)

    trained = zoo.train(net, data, seed=seed)
    learned = trained.model
    done("train")
    path = zoo.export_onnx(net, folder / f"{net}.onnx", trained=trained)
    _answer(proof, FULL, *_stored(folder / "full", IRTranslator().parse(path)), data)
    done("export")
    student = _student(proof, learned, data)
    done("train in few bits")
    model = qat.to_onnx(student, name=net, input_names=["images"], output_names=["logits"])
    _answer(proof, OURS, *_stored(folder / "few", model), data)
    done("export in few bits")
    control = copy.deepcopy(learned)
    _fit(control, learned, data, proof)
    proof.right[CONTROL] = _right(lambda items: qat.scores(control, items), data.test)
    done("control")
    _peers(proof, path, folder, data)
    done("peers")
    return proof


def _student(proof: Proof, learned: Any, data: zoo.Data) -> Any:
    """The network trained in few bits, its bundle a quarter of the full one's."""
    import torch

    example = (torch.from_numpy(data.train.items[:2]),)
    student = qat.prepare(learned, example, scheme_for(ENGINE, this_machine()))
    qat.calibrate(student, [data.train.items[:CALIBRATION]])
    target = int(proof.size_bytes[FULL] * OF_FULL_SIZE)
    proof.few = len(qat.fewer_bits(student, data.train.items[:CALIBRATION], target, name=proof.net).layers)
    _fit(student, learned, data, proof)
    return student


def _fit(module: Any, teacher: Any, data: zoo.Data, proof: Proof) -> None:
    recipe = RECIPES[proof.net]
    qat.fit(
        module, *data.train, teacher=teacher, validation=tuple(data.validation), augment=zoo.augmented,
        recipe=type(recipe)(**{**asdict(recipe), "seed": proof.seed}),
    )  # fmt: skip


def _stored(folder: Path, model: Model) -> tuple[Callable[[Array], Array], int]:
    """How a model answers from its bundle, and the bundle's bytes."""
    Bundle.write(folder, model)
    opened = Bundle.open(folder).model
    session = engines.load(ENGINE).load(opened, engines.Options(precision="int8"))
    (given,), (made,) = opened.signature.inputs, opened.signature.outputs
    size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return lambda items: session.run({given.name: items})[made.name], size_bytes


def _peers(proof: Proof, path: Path, folder: Path, data: zoo.Data) -> None:
    """Each peer on its own engine, by the way of calibration that is best on the validation items."""
    items = data.train.items[:CALIBRATION]
    machine = this_machine()
    exact = multiplies_exactly(machine.architecture, machine.instruction_sets)
    rows = [{"images": items[start : start + 8]} for start in range(0, len(items), 8)]
    alone = [{"images": items[start : start + 1]} for start in range(len(items))]  # as NNCF counts samples
    made = {
        "onnxruntime": _int8_peers.onnxruntime(path, rows, folder / "onnxruntime", exact=exact),
        "nncf": _int8_peers.nncf(path, alone, folder / "nncf"),
    }
    for peer, found in made.items():
        proof.failed |= {f"{peer} {way}": why for way, why in found.why.items()}
        runs = {way: _runner(file) for way, file in found.files.items()}
        reached = {way: float(np.mean(_right(run, data.validation))) for way, run in runs.items()}
        if not reached:
            continue
        way = max(reached, key=reached.__getitem__)
        proof.ways[peer], proof.validation[peer] = way, reached[way]
        file = found.files[way]
        files = {file, file.with_suffix(".bin")} if file.suffix == ".xml" else {file}
        _answer(proof, peer, runs[way], sum(one.stat().st_size for one in files), data)


def _runner(file: Path) -> Callable[[Array], Array]:
    """A peer's file on its own engine, with the engine's own loader."""
    if file.suffix == ".xml":
        import openvino

        compiled = openvino.compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": 1})
        return lambda items: compiled(items)[0]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda items: session.run(None, {session.get_inputs()[0].name: items})[0]


def _answer(
    proof: Proof, variant: str, run: Callable[[Array], Array], size_bytes: int, data: zoo.Data
) -> None:
    proof.right[variant] = _right(run, data.test)
    proof.size_bytes[variant] = size_bytes


def _right(run: Callable[[Array], Array], split: zoo.Split) -> list[bool]:
    return [bool(one) for one in run(split.items).argmax(1) == split.labels]


# all of them


def measured(nets: Sequence[str], seeds: Sequence[int], data: str, processes: int, kept: Path) -> list[Proof]:
    """All networks from all seeds, so many processes side by side, one thread each.

    Args:
        nets: names of the zoo.
        seeds: of training.
        data: what is learned.
        processes: how many.
        kept: folder of what is finished, which is not made again.
    """
    kept.mkdir(parents=True, exist_ok=True)
    jobs = [(net, seed) for seed in seeds for net in nets]
    with ThreadPoolExecutor(processes) as pool:
        return [*pool.map(lambda job: _once(*job, data, kept), jobs)]


def _once(net: str, seed: int, data: str, kept: Path) -> Proof:
    file = kept / f"{net}-{data}-{seed}.json"
    if file.is_file():
        return Proof(**json.loads(file.read_text()))
    with tempfile.TemporaryDirectory(prefix="raceline-qat-") as folder:
        proof = _in_child(net, seed, data, folder)
    file.write_text(json.dumps(asdict(proof)))
    reached = {name: round(100 * float(np.mean(right)), 2) for name, right in proof.right.items()}
    print(
        f"{net} from seed {seed}: {reached}, seconds {proof.seconds}, CPU {proof.cpu_seconds}",
        file=sys.stderr,
        flush=True,
    )
    return proof


def _in_child(net: str, seed: int, data: str, folder: str) -> Proof:
    order = json.dumps({"net": net, "seed": seed, "name": data, "folder": folder})
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks._qat", "--one", order], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=_LIMIT_S, check=False,
    )  # fmt: skip
    if ended.returncode:
        raise RuntimeError(f"{net} from seed {seed} failed:\n{ended.stderr[-3000:]}")
    return Proof(**json.loads(ended.stdout.splitlines()[-1]))


def drop_points(
    full_SI: Array, other_SI: Array, *, draws: int | None = None, chance: int = 0
) -> dict[str, float]:  # S seeds, I test items
    """What the other answers lose against the full ones, in points of accuracy, with a 95 % interval.

    A paired bootstrap: seeds and items are drawn again independently of each other, because all seeds answer the
    same items, and both variants with the same draw.

    Args:
        full_SI: whether the FP32 network of a seed found an item's class.
        other_SI: the same of what it is compared with.
        draws: how many times; None: `DRAWS`.
        chance: seed of the draws.
    """
    loss_SI = 100.0 * (np.asarray(full_SI, np.float64) - np.asarray(other_SI, np.float64))
    seeds, items = loss_SI.shape
    draws = draws or DRAWS
    generator = np.random.default_rng(chance)
    weight_DS = generator.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    weight_DI = generator.multinomial(items, np.full(items, 1 / items), draws) / items
    means = ((weight_DS @ loss_SI) * weight_DI).sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(loss_SI.mean()), "low": float(low), "high": float(high)}


def figures(proofs: Iterable[Proof]) -> dict[str, Any]:
    """The figures by name: the worse network counts, with both beside it."""
    nets: dict[str, list[Proof]] = {}
    for proof in proofs:
        nets.setdefault(proof.net, []).append(proof)

    def drops(variant: str) -> dict[str, Any]:
        found = {}
        for net, rows in nets.items():
            both = [(row.right[FULL], row.right[variant]) for row in rows if variant in row.right]
            if both:
                found[net] = drop_points(*map(np.array, zip(*both, strict=True)))
        worst = max(found.values(), key=lambda one: one["mean"], default=None)
        return {"worst": worst and worst["mean"], **found}

    def reductions(variant: str) -> dict[str, Any]:
        found = {
            net: min(1 - row.size_bytes[variant] / row.size_bytes[FULL] for row in rows)
            for net, rows in nets.items()
            if all(variant in row.size_bytes for row in rows)
        }
        return {"worst": min(found.values(), default=None), **found}

    reduction = reductions(OURS)
    return {
        "qat_size_reduction": reduction["worst"],
        "qat_accuracy_drop": drops(OURS),
        "qat_size_reductions": reduction,
        "control_accuracy_drop": drops(CONTROL),
        "ptq_accuracy_drop": {peer: drops(peer) for peer in PEERS},
        "ptq_size_reduction": {peer: reductions(peer) for peer in PEERS},
    }


def table(net: str, proofs: Sequence[Proof]) -> Table:
    """One line a seed: accuracies in percent; then means, drops and bytes."""
    variants = [FULL, OURS, *PEERS, CONTROL]
    result = Table(title=f"{net}: accuracy on {len(proofs[0].right[FULL])} test items, %")
    for head in ("seed", *(PEERS.get(variant, variant) for variant in variants), "4-bit layers"):
        result.add_column(head, justify="right")
    for row in sorted(proofs, key=lambda one: one.seed):
        cells = [_percent(row.right.get(variant)) for variant in variants]
        for place, variant in enumerate(variants):
            if variant in row.ways:
                cells[place] += f" {row.ways[variant]}"
        result.add_row(str(row.seed), *cells, str(row.few))
    means, drops, sizes = [], [], []
    for variant in variants:
        rows = [row for row in proofs if variant in row.right]
        right = np.array([row.right[variant] for row in rows])
        means.append(_percent(right) if rows else "")
        drop = drop_points(np.array([row.right[FULL] for row in rows]), right) if rows else None
        drops.append(f"{drop['mean']:+.2f} [{drop['low']:+.2f}, {drop['high']:+.2f}]" if drop else "")
        size = max((row.size_bytes.get(variant, 0) for row in rows), default=0)
        sizes.append(f"{size:,}" if size else "")
    result.add_section()
    result.add_row("mean", *means, "")
    result.add_row("drop, points", "", *drops[1:], "")
    result.add_row("bytes", *sizes, "")
    return result


def _percent(right: Any) -> str:
    return "" if right is None else f"{100 * np.mean(right):.2f}"


def prove_all(
    seeds: Sequence[int],
    nets: Sequence[str] = NETS,
    data: str = DATA,
    processes: int = 2,
    keep: Path | None = None,
) -> dict[str, Any]:
    """The figures; prints a table for each network.

    Args:
        seeds: of training.
        nets: names of the zoo.
        data: what is learned.
        processes: so many networks side by side.
        keep: folder of finished parts, which are not made again.
    """
    began_s = time.perf_counter()
    this_machine()  # measured once, before the children ask
    with tempfile.TemporaryDirectory(prefix="raceline-qat-") as folder:
        proofs = measured(nets, seeds, data, processes, keep or Path(folder))
    console = Console(width=150)
    for net in nets:
        console.print(table(net, [proof for proof in proofs if proof.net == net]))
    for proof in proofs:
        for way, why in proof.failed.items():
            print(f"{proof.net} from seed {proof.seed}: {way} failed: {why}", file=sys.stderr)
    return figures(proofs) | {
        "data": data,
        "seeds": len(seeds),
        "seconds": round(time.perf_counter() - began_s),
        "seconds_of_parts": {f"{proof.net} {proof.seed}": proof.seconds for proof in proofs},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks._qat", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--nets", nargs="+", metavar="NAME", default=NETS, choices=NETS, help="only these")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, from 0")
    parser.add_argument("--data", default=DATA, help="what is learned, such as digits or mnist_5k")
    parser.add_argument("--processes", type=int, default=2, help="so many networks side by side")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep finished parts; go on from them")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        order = json.loads(options.one)
        print(json.dumps(asdict(prove(order["net"], order["seed"], order["name"], Path(order["folder"])))))
        return
    result = prove_all(range(options.seeds), options.nets, options.data, options.processes, options.keep) | {
        "machine": this_machine().key,
        "date": datetime.now(UTC).date().isoformat(),
    }
    for name in list(result)[:2]:
        print(f"{name}: {result[name]}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
