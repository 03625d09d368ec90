"""Raceline's compiled kernels (sources: native/); use them through the rooms that own them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_Floats = np.ndarray[Any, np.dtype[np.float32]]
_Norm = tuple[_Floats, _Floats | None, float]  # scale, shift, epsilon

def instruction_sets() -> list[str]:
    """Those the CPU has and the operating system lets a program use: /proc/cpuinfo's names, ARM's words."""

def brand() -> str:
    """The CPU's own name; empty on ARM."""

def caches() -> list[tuple[int, str, int, int]]:
    """(level, kind, size_bytes, logical CPUs that share it) as the CPU reports them; empty on ARM."""

def kernels() -> list[tuple[str, str]]:
    """(precision, instruction set) of each multiply-add loop that this CPU can run."""

def kernel_totals(precision: str, instruction_set: str, iterations: int) -> tuple[float, float]:
    """What a loop's accumulators add up to, and what they must add up to if nothing was left out.

    Exact for up to 1000 iterations.

    Raises:
        KeyError: this CPU has no such kernel.
        RuntimeError: the operating system refuses AMX.
    """

def measure_clock_hz() -> float:
    """Cycles per second of a busy core."""

def measure_ops_per_s(precision: str, instruction_set: str, cpus: list[int]) -> float:
    """Operations per second (a multiply-add is two) on `cpus` at once; where empty, on the calling thread.

    Raises:
        KeyError: this CPU has no such kernel.
        RuntimeError: the operating system refuses AMX.
    """

def measure_triad_bytes_per_s(size_bytes: int, cpus: list[int]) -> float:
    """STREAM triad over three arrays of `size_bytes` in all, counted as two reads and one write.

    Raises:
        MemoryError: there is not enough memory.
    """

def dense_kernels() -> list[str]:
    """The sets of dense kernels that this CPU can run, best first: avx512, avx2, plain.

    Wherever `kernels` names one of them, the empty string means the best.
    """

class Linear:
    """activation(norm(x) weight + bias) + residual, then perhaps normalised, with a constant weight."""

    def __init__(
        self,
        weight: _Floats,
        bias: _Floats | None = None,
        *,
        rows: int,
        kernels: str = "",
        exact: bool = False,
        plan: tuple[int, int, bool] | None = None,
        seconds: float = 0.1,
    ) -> None:
        """Pack a constant weight.

        Args:
            weight: (k, n), copied.
            bias: (n), copied.
            rows: of x, most often; any number may come.
            exact: leave out Strassen's algorithm, whose error grows with the largest element of a matrix
                rather than with each one.
            kernels: see `dense_kernels`.
            plan: vectors of a tile, rows of a block, Strassen; where None, the fastest that is found.
            seconds: to look for it, about.

        Raises:
            ValueError: shapes or plan do not fit.
            KeyError: this CPU has no such kernels.
            MemoryError: there is not enough memory.
        """

    def run(
        self,
        x: _Floats,
        out: _Floats,
        *,
        residual: _Floats | None = None,
        activation: str = "",
        before: _Norm | None = None,
        after: _Norm | None = None,
        threads: int = 1,
    ) -> None:
        """Compute; the last axes must be contiguous.

        Args:
            x: (rows, k)
            out: (rows, n), overwritten.
            residual: (rows, n), may be `out` itself.
            activation: "", "relu", "gelu", "gelu_tanh" or "silu".
            before: layer normalisation of x's rows.
            after: layer normalisation of the result's rows.
            threads: made for this call; the numbers do not depend on them.

        Raises:
            ValueError: shapes or strides do not fit, or there is no such activation.
        """

    @property
    def plan(self) -> tuple[int, int, bool]:
        """Vectors of a tile, rows of a block, Strassen."""

    @property
    def size_bytes(self) -> int:
        """Of the packed weight."""

def attention(
    q: _Floats,
    k: _Floats,
    v: _Floats,
    out: _Floats,
    mask: _Floats | None = None,
    *,
    scale: float,
    threads: int = 1,
    kernels: str = "",
) -> None:
    """Set out = softmax(q k^T * scale + mask) v; only the last axes need be contiguous.

    Args:
        q: (batch, heads, queries, depth)
        k: (batch, heads, keys, depth)
        v: (batch, heads, keys, value depth)
        out: (batch, heads, queries, value depth)
        mask: (batch or 1, heads or 1, queries or 1, keys)
        scale: of the scores; may be negative.
        threads: made for this call.
        kernels: see `dense_kernels`.

    Raises:
        ValueError: shapes or strides do not fit.
        KeyError: this CPU has no such kernels.
        MemoryError: there is not enough memory.
    """

def layer_norm(
    x: _Floats,
    out: _Floats,
    scale: _Floats,
    shift: _Floats | None = None,
    *,
    epsilon: float,
    kernels: str = "",
) -> None:
    """Normalise each row of x (rows, columns) to mean 0 and variance 1, then scale and shift it.

    Raises:
        ValueError: shapes or strides do not fit.
        KeyError: this CPU has no such kernels.
    """

def apply(function: str, x: _Floats, out: _Floats, *, kernels: str = "") -> None:
    """Elementwise exp, erf, tanh, relu, gelu, gelu_tanh or silu of a vector.

    exp below -87.3 is zero, not denormal.

    Raises:
        ValueError: lengths differ, or there is no such function.
        KeyError: this CPU has no such kernels.
    """

def net_kernels() -> list[str]:
    """Names of the kernels for nets that this CPU can run, the fastest first."""

_Method = tuple[int, int, int, bool, int, int]

def net_methods() -> dict[str, _Method]:
    """The ways of convolving that were found fastest, by kernels, threads and shape."""

def learn_net_methods(methods: dict[str, _Method]) -> None:
    """Use what another process found; a way that a shape does not have is never used.

    Raises:
        TypeError: anything else in it, or a number beyond 32 bits.
    """

_Function = tuple[int, float, float]

class Net:
    """A convolutional net made ready to run; values are (images, channels, rows, columns).

    All methods but `run` raise ValueError for what does not fit: sizes, places outside the arena, numbers of
    values that there are not.
    """

    def __init__(self, threads: int, streams: int, kernels: str, arena_floats: int) -> None:
        """`kernels`: a name of `net_kernels`, or empty for the best."""

    def value(
        self,
        place: int,
        offset: int,
        shape: Sequence[int],
        image_stride: int,
        bytes: tuple[float, int] | None = None,
    ) -> int:
        """Number of a new value: in the arena (place 0), or the next input (1) or output (2).

        Args:
            place: one of these.
            offset: floats in the arena.
            shape: (images, channels, rows, columns)
            image_stride: floats between images.
            bytes: scale and zero point, of a value that is kept as uint8, channels last; in the arena alone.
        """

    def convolution(
        self,
        x: int,
        y: int,
        weights: _Floats,
        bias: _Floats | None,
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
        groups: int,
        first: _Function,
        residual: int,
        second: _Function,
    ) -> None:
        """Set y = second(first(conv(x)) + residual); `pads` at the top and left, `residual` -1 for none."""

    def int8_convolution(
        self,
        x: int,
        y: int,
        weights: np.ndarray[Any, np.dtype[np.int8]],
        scale: _Floats,
        bias: _Floats | None,
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
        groups: int,
        first: _Function,
        residual: int,
        second: _Function,
    ) -> None:
        """Add the same of a value of bytes; y and the residual are of bytes or floats.

        Args:
            x: of bytes.
            y: of either.
            weights: (outputs, inputs / groups, rows, columns); sums of at most 32768 products, or depthwise ones
                of at most 512.
            scale: (outputs), what the numbers of each output channel stand for.
            bias: (outputs), in units of the result.
            strides: of rows and columns.
            dilations: of rows and columns.
            pads: at the top and left.
            groups: 1, or as many as channels.
            first: applied to the result.
            residual: a value to be added then; -1 for none.
            second: applied to that.
        """

    def bytes_pool(
        self,
        x: int,
        y: int,
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
    ) -> None:
        """Maximum of windows, among bytes of one scale."""

    def quantise(self, x: int, y: int) -> None:
        """Floats, of the arena or an input, to bytes: round(x / scale) + zero point, half to even."""

    def restore(self, x: int, y: int) -> None:
        """Bytes to floats of the arena."""

    def pool(
        self,
        x: int,
        y: int,
        is_max: bool,
        count_padding: bool,
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
    ) -> None:
        """Maximum or average of windows; `pads` at the top, left, bottom and right."""

    def average(self, x: int, y: int) -> None:
        """Mean of each channel."""

    def apply(self, x: int, y: int, function: _Function) -> None:
        """An activation alone."""

    def binary(self, op: int, x: int, z: int, swapped: bool, y: int, function: _Function) -> None:
        """Set y = function(x op z), or z op x; z has x's shape or one pixel."""

    def affine(self, x: int, y: int, scale: _Floats, shift: _Floats, function: _Function) -> None:
        """Set y = function(x * scale + shift), a number of each for each channel."""

    def copy(self, x: int, from_channel: int, y: int, to_channel: int, channels: int) -> None:
        """Some channels of x into y."""

    def upsample(self, x: int, y: int) -> None:
        """Every pixel repeated as often as y is larger."""

    def pack(self, x: int, y: int) -> None:
        """An input into the arena."""

    def unpack(self, x: int, y: int) -> None:
        """A value out of the arena."""

    def prepare(self, budget_s: float, winograd: bool, choice: int = -1) -> None:
        """Choose how each convolution is computed, by measuring for about so long; then the net is complete.

        With a `choice` that is not negative: the method of that number, counted round, for each.
        """

    def run(self, inputs: Sequence[_Floats], outputs: Sequence[_Floats]) -> None:
        """Compute, from and into contiguous float32 arrays; from several threads at once.

        Raises:
            ValueError: an array has another size than its value.
        """

    def time_steps(
        self, inputs: Sequence[_Floats], outputs: Sequence[_Floats], repeats: int
    ) -> list[tuple[str, float]]:
        """Each step's name and least seconds: of computing at one thread, else of time."""

    def memory_bytes(self) -> int:
        """Packed weights, arenas and scratch."""

    def step_names(self) -> list[str]:
        """What each step is, convolutions and linear layers with the way that was chosen."""

    def linear(
        self,
        x: int,
        y: int,
        weights: _Floats,
        bias: _Floats | None,
        *,
        activation: str = "",
        residual: int = -1,
        before: _Norm | None = None,
        after: _Norm | None = None,
        exact: bool = False,
        seconds: float = 0.1,
    ) -> None:
        """Add y = after(activation(before(x) weights + bias) + residual), over values of one pixel as rows.

        Args:
            x: (rows, k)
            y: (rows, n)
            weights: (k, n), copied.
            bias: (n), copied.
            activation: as `Linear.run` takes them.
            residual: a value (rows, n); negative for none.
            before: layer norm of x's rows.
            after: layer norm of the result's rows.
            exact: see `Linear`.
            seconds: to look for the fastest plan.

        Raises:
            ValueError: shapes do not fit, or there is no such activation.
        """

    def int8_linear(
        self,
        x: int,
        y: int,
        weights: np.ndarray[Any, np.dtype[np.int8]],
        scale: _Floats,
        bias: _Floats | None,
        *,
        x_bytes: tuple[float, int],
        activation: str = "",
        residual: int = -1,
        seconds: float = 0.1,
    ) -> None:
        """Add y = activation(x weights + bias) + residual, where x is rounded to bytes on the way.

        Args:
            x: (rows, k)
            y: (rows, n)
            weights: (k, n), copied; k at most 32768.
            scale: (n), copied: what each column of the weights stands for.
            bias: (n), copied.
            x_bytes: scale and zero point of x as uint8.
            activation: as `Linear.run` takes them.
            residual: a value (rows, n); negative for none.
            seconds: to look for the fastest plan.

        Raises:
            ValueError: shapes, scale or zero point do not fit, or there is no such activation.
        """

    def rounded(self, x: int, y: int, bytes: tuple[float, int]) -> None:
        """Add y = what x stands for once it was rounded to uint8 of this scale and zero point.

        Raises:
            ValueError: shapes, scale or zero point do not fit, or pictures have more than one pixel.
        """

    def norm(self, x: int, y: int, norm: _Norm) -> None:
        """Add a layer norm over the columns of a value of one pixel.

        Raises:
            ValueError: shapes do not fit.
        """

    def attention(
        self,
        q: tuple[int, int, int],
        k: tuple[int, int, int],
        v: tuple[int, int, int],
        y: int,
        *,
        batch: int,
        heads: int,
        depth: int,
        value_depth: int,
        scale: float,
        mask: int = -1,
        mask_shape: Sequence[int] = (1, 1, 1),
    ) -> None:
        """Add softmax(q k^T * scale + mask) v over heads that lie side by side in the columns of matrices.

        Args:
            q: value (batch * queries, columns), first column, columns between heads.
            k: the same of (batch * keys, columns).
            v: the same.
            y: (batch * queries, heads * value_depth)
            batch: of all of them.
            heads: side by side.
            depth: of q and k.
            value_depth: of v.
            scale: of the scores.
            mask: a value (batch or 1 * heads or 1 * queries or 1, keys); negative for none.
            mask_shape: its first three axes.

        Raises:
            ValueError: heads or mask lie outside their values.
        """

def int8_kernels() -> list[str]:
    """The sets of 8-bit kernels that this CPU can run, best first: avx512_vnni, avx_vnni, avx512bw, avx2, plain.

    All give the same sums, to the bit.
    """

class Int8Linear:
    """activation((x - zero point) weight * scales + bias) + residual, with a constant weight of 8 bits."""

    def __init__(
        self,
        weight: np.ndarray[Any, np.dtype[np.int8]],
        scale: _Floats,
        bias: _Floats | None = None,
        *,
        rows: int,
        kernels: str = "",
        plan: tuple[int, int, bool] | None = None,
        seconds: float = 0.1,
    ) -> None:
        """Pack a constant weight; its zero point is 0.

        Args:
            weight: (k, n), copied; k at most 32768, so that every sum fits 32 bits.
            scale: (n), of each column of the weight.
            bias: (n), in units of the result.
            rows: of x, most often; any number may come.
            kernels: see `int8_kernels`.
            plan: vectors of a tile, rows of a block, and whether bytes are widened to 16 bits; where None, the
                fastest that is found. The sums are the same.
            seconds: to look for it, about.

        Raises:
            ValueError: shapes or plan do not fit, or k is too large.
            KeyError: this CPU has no such kernels.
            MemoryError: there is not enough memory.
        """

    def run(
        self,
        x: np.ndarray[Any, Any],
        out: np.ndarray[Any, Any],
        *,
        scale: float,
        zero_point: int = 0,
        out_scale: float = 1.0,
        out_zero_point: int = 0,
        residual: _Floats | None = None,
        activation: str = "",
        threads: int = 1,
    ) -> None:
        """Compute; sums are exact, all that follows is in float32. The last axes must be contiguous.

        Args:
            x: (rows, k) of uint8 or int8; or of float32, which is quantised to uint8 on the way.
            out: (rows, n), overwritten: float32, or uint8 or int8, rounded half to even and held within the type.
            scale: of x.
            zero_point: of x.
            out_scale: of an 8-bit `out`.
            out_zero_point: of an 8-bit `out`.
            residual: (rows, n), added after the activation; may be `out` itself.
            activation: "", "relu", "gelu", "gelu_tanh" or "silu".
            threads: made for this call; the numbers do not depend on them.

        Raises:
            ValueError: shapes, types, scales or zero points do not fit, or there is no such activation.
        """

    @property
    def plan(self) -> tuple[int, int, bool]:
        """Vectors of a tile, rows of a block, whether bytes are widened."""

    @property
    def size_bytes(self) -> int:
        """Of the packed weight."""

    @property
    def split_share(self) -> float:
        """Vectors of weights that would saturate sums of 16 bits and were split, as a share of all."""

def quantise(
    x: _Floats, out: np.ndarray[Any, Any], *, scale: float, zero_point: int = 0, kernels: str = ""
) -> None:
    """Set out = round(x / scale) + zero_point, half to even, held within out's uint8 or int8; NaN is the smallest.

    Raises:
        ValueError: lengths, types, scale or zero point do not fit.
        KeyError: this CPU has no such kernels.
    """
