"""Which engines suit a CPU, by its instruction sets; each with its reason. No runtime is imported.

This is where a tuner begins, not where it ends: no engine wins on every model, so they are all measured. The
order of the runtimes follows measurements on AVX2 cores (slow-down against the best of the three, geometric mean
of 20 cases: MNN 1.13, OpenVINO 1.17, ONNX Runtime 1.20); elsewhere the instructions that each has kernels for.
"""

from collections.abc import Callable, Collection

from raceline.ir.platform import EngineChoice

# Instructions that add 8-bit products into 32 bits without a saturating step between.
EXACT_INT8 = {"avx_vnni", "avx512_vnni", "amx_int8", "dotprod", "i8mm"}


def multiplies_exactly(architecture: str, instruction_sets: Collection[str]) -> bool:
    """Whether the runtimes' 8-bit products are exact there; else sums of two saturate, and weights need 7 bits."""
    return architecture != "x86_64" or bool(EXACT_INT8 & set(instruction_sets))


_NATIVE_SETS = {"avx2", "avx512f"}  # that the native kernels know


def suitable_engines(architecture: str, instruction_sets: Collection[str]) -> tuple[EngineChoice, ...]:
    """The CPU engines in the order in which they are worth trying.

    Args:
        architecture: "x86_64" or "aarch64".
        instruction_sets: names as `PlatformProfile.instruction_sets` has them.
    """
    has = set(instruction_sets)
    if architecture == "aarch64":
        order = [_mnn, _onnxruntime, _openvino]
    elif "avx512_vnni" in has or "amx_tile" in has:
        order = [_openvino, _onnxruntime, _mnn]
    else:
        order = [_mnn, _openvino, _onnxruntime]
    ours = (_native(has),) if architecture == "x86_64" and {"avx2", "fma"} <= has else ()
    return (*ours, *(rule(architecture, has) for rule in order), _REFERENCE)


_REFERENCE = EngineChoice(
    "reference", "CPU", ("fp32",), "the standard's own meaning, for checking the others; slow"
)


def _native(has: set[str]) -> EngineChoice:
    """The one that knows in a moment whether a model is for it."""
    widest = _widest(has & _NATIVE_SETS)
    reason = (
        f"Raceline's own kernels for convolutions and attention, tuned to each layer, on {widest}; "
        "int8 is exact with and without VNNI"
    )
    return EngineChoice("native", "CPU", ("fp32", "int8"), reason)


def _mnn(architecture: str, has: set[str]) -> EngineChoice:
    strength = (
        "its kernels were written for ARM first"
        if architecture == "aarch64"
        else "its Winograd convolutions won most often on AVX2 cores"
    )
    return EngineChoice("mnn", "CPU", ("fp32",), strength)


def _openvino(architecture: str, has: set[str]) -> EngineChoice:
    if architecture == "aarch64":
        return EngineChoice("openvino", "CPU", ("fp32",), "its ARM kernels come from the Compute Library")
    bf16 = sorted(has & {"amx_bf16", "avx512_bf16"})
    reason = f"it generates code for {_widest(has)}; {_int8_note(has)}"
    if bf16:
        return EngineChoice("openvino", "CPU", ("fp32", "bf16", "int8"), f"{reason}; bf16 by {bf16[0]}")
    return EngineChoice("openvino", "CPU", ("fp32", "int8"), reason)


def _onnxruntime(architecture: str, has: set[str]) -> EngineChoice:
    reason = f"it runs the most operators, with kernels for {_widest(has)}; {_int8_note(has)}"
    return EngineChoice("onnxruntime", "CPUExecutionProvider", ("fp32", "int8"), reason)


def _int8_note(has: set[str]) -> str:
    """How INT8 comes out here."""
    exact = sorted(has & EXACT_INT8)
    if exact:
        return f"int8 by {', '.join(exact)}"
    return "int8 products saturate without VNNI, so weights need 7 bits"


def _widest(has: set[str]) -> str:
    """The widest vector instructions, in the words engines use."""
    names: list[tuple[str, Callable[[], bool]]] = [
        ("AMX", lambda: "amx_tile" in has),
        ("AVX-512", lambda: "avx512f" in has),
        ("AVX2", lambda: "avx2" in has),
        ("NEON", lambda: "neon" in has),
    ]
    return next((name for name, fits in names if fits()), "the baseline")
