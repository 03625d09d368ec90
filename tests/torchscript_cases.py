"""Modules of one idea each for the TorchScript reader: what to trace, and the inputs to trace it with."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


class One(nn.Module):
    def __init__(self, compute, *parts):
        super().__init__()
        self.compute = compute
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        return self.compute(x, *self.parts)


class Two(One):
    def forward(self, x, y):
        return self.compute(x, y, *self.parts)


class Three(One):
    def forward(self, x, y, z):
        return self.compute(x, y, z, *self.parts)


@dataclass
class Case:
    """`alike`: whether the first axis of each input may have any size."""

    name: str
    module: nn.Module
    inputs: tuple
    alike: bool = True


def r(*shape, seed=0, low=-2.0, high=2.0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.rand(shape, generator=generator) * (high - low) + low


def i(*shape, top=5, seed=0):
    return torch.randint(0, top, shape, generator=torch.Generator().manual_seed(seed))


def one(name, compute, x=None, *parts, alike=True):
    return Case(name, One(compute, *parts).eval(), (r(2, 3, 4) if x is None else x,), alike)


def two(name, compute, x=None, y=None, *parts, alike=True):
    return Case(
        name,
        Two(compute, *parts).eval(),
        (r(2, 3, 4) if x is None else x, r(2, 3, 4, seed=9) if y is None else y),
        alike,
    )


POSITIVE = r(2, 3, 4, low=0.1, high=3.0)
UNIT = r(2, 3, 4, low=-0.9, high=0.9)
IMAGE = r(2, 4, 8, 9)
WHOLE = i(2, 3, 4, top=7)
TRUTH = r(2, 3, 4) > 0

FUNCTIONS = [
    one(name, getattr(torch, name), domain)
    for names, domain in (
        ("exp sin cos tan sinh cosh tanh erf sigmoid abs neg sign floor ceil round trunc frac square atan asinh "
         "relu expm1 exp2 erfc isnan isinf isfinite logical_not deg2rad rad2deg positive", None),
        ("log log2 log10 log1p sqrt rsqrt reciprocal", POSITIVE),
        ("asin acos atanh", UNIT),
    )
    for name in names.split()
]  # fmt: skip
FUNCTIONS += [
    one("acosh", torch.acosh, POSITIVE + 1),
    one("log1p_small", torch.log1p, UNIT * 1e-6),
    one("expm1_small", torch.expm1, UNIT * 1e-6),
    one("exp_int", torch.exp, WHOLE),
    one("logit", lambda x: torch.logit(x, 1e-3), UNIT.abs()),
    one("nan_to_num", lambda x: torch.nan_to_num(torch.log(x), 7.0, 8.0, -9.0)),
    one("clamp", lambda x: x.clamp(-1, 1)),
    one("clamp_min", lambda x: x.clamp(min=0.5)),
    one("clamp_max", lambda x: x.clamp_max(0.5)),
    two("clamp_tensor", lambda x, y: torch.clamp(x, max=y)),
    one("bitwise", lambda x: (x & 3) | (x ^ 5) & ~x, WHOLE),
    one("cumsum", lambda x: x.cumsum(1)),
    one("cumsum_int", lambda x: x.cumsum(-1), WHOLE),
]
ACTIVATIONS = [
    one(name, getattr(F, name))
    for name in (
        "relu relu6 elu selu celu silu mish hardswish hardsigmoid hardtanh softplus softsign tanhshrink hardshrink "
        "softshrink leaky_relu gelu logsigmoid sigmoid tanh"
    ).split()
]
ACTIVATIONS += [
    one("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
    one("softplus_beta", lambda x: F.softplus(x, beta=3.0, threshold=2.0)),
    one("elu_alpha", lambda x: F.elu(x, 0.5)),
    one("threshold", lambda x: F.threshold(x, 0.3, -7.0)),
    one("prelu", lambda x, p: p(x), None, nn.PReLU(3, 0.2)),
    one("prelu_one", lambda x, p: p(x), None, nn.PReLU()),
    one("glu", lambda x: F.glu(x, -1)),
    one("relu_inplace", lambda x: F.relu(x * 1, inplace=True)),
    one("softmax", lambda x: F.softmax(x, 1)),
    one("log_softmax", lambda x: F.log_softmax(x, -1)),
    one("softmin", lambda x: F.softmin(x, -1)),
    one("softmax_dtype", lambda x: F.softmax(x, -1, dtype=torch.float64)),
    one("normalize", lambda x: F.normalize(x, dim=1)),
    two("cosine_similarity", lambda x, y: F.cosine_similarity(x, y, dim=-1)),
]
ARITHMETIC = [
    two("add_alpha", lambda x, y: torch.add(x, y, alpha=2)),
    two("sub_alpha", lambda x, y: torch.sub(x, y, alpha=0.5)),
    one("rsub", lambda x: 3 - x),
    one("rsub_alpha", lambda x: torch.rsub(x, 3, alpha=2)),
    two("mul", lambda x, y: x * y),
    two("div", lambda x, y: x / (y + 3)),
    one("round_decimals", lambda x: torch.round(x * 30, decimals=2)),
    one("round_tens", lambda x: torch.round(x * 300, decimals=-1)),
    two("div_floor", lambda x, y: torch.div(x, y + 3, rounding_mode="floor")),
    two("div_trunc", lambda x, y: torch.div(x, y + 3, rounding_mode="trunc")),
    one("int_div", lambda x: x / 2, WHOLE),
    one("int_floor", lambda x: (x - 3) // 2, WHOLE),
    one("int_floor_negative", lambda x: (x - 3) // -2, WHOLE),
    one("int_trunc", lambda x: torch.div(x - 3, 2, rounding_mode="trunc"), WHOLE),
    one("int_remainder", lambda x: (x - 3) % 3, WHOLE),
    one("int_times_float", lambda x: x * 0.5 + 1, WHOLE),
    one("bool_plus", lambda x: (x > 0) + 1),
    one("bool_arith", lambda x: (x > 0) * x + (x > 1)),
    two("int_float_mix", lambda x, y: x + y, WHOLE, r(2, 3, 4)),
    two("rank0_mix", lambda x, y: x * y.double().sum(), alike=True),
    two("remainder", lambda x, y: torch.remainder(x, y.abs() + 0.5)),
    two("fmod", lambda x, y: torch.fmod(x, y.abs() + 0.5)),
    one("pow2", lambda x: x**2),
    one("pow", lambda x: x**1.5, POSITIVE),
    two("pow_tensor", torch.pow, POSITIVE),
    one("pow_base", lambda x: 2**x),
    two("maximum", torch.maximum),
    two("minimum", torch.minimum),
    two("max_two", torch.max),
    two("atan2", torch.atan2),
    two("logaddexp", torch.logaddexp),
    two("compare", lambda x, y: ((x > y) & (x >= 0)) | (x < y) & ~(x <= 0.5)),
    two("equal", lambda x, y: (x == x) & (x != y)),
    two(
        "logical", lambda x, y: torch.logical_xor(torch.logical_and(x > 0, y > 0), torch.logical_or(x > 1, y))
    ),
    two("where", lambda x, y: torch.where(x > 0, x, y)),
    one("where_scalar", lambda x: torch.where(x > 0, x, 0.0)),
    two("masked_fill", lambda x, y: x.masked_fill(y > 0, -1e9)),
    two("lerp", lambda x, y: torch.lerp(x, y, 0.3)),
    two("addcmul", lambda x, y: torch.addcmul(x, x, y, value=0.5)),
    two("addcdiv", lambda x, y: torch.addcdiv(x, x, y + 3, value=0.5)),
    one("to_int", lambda x: (x * 3).to(torch.int32)),
    one("to_half", lambda x: x.half().float()),
    two("type_as", lambda x, y: y.type_as(x), WHOLE),
    two("matmul", lambda x, y: x @ y.transpose(1, 2)),
    two("bmm", lambda x, y: torch.bmm(x, y.mT)),
    two("mm", torch.mm, r(3, 4), r(4, 5), alike=False),
    two("addmm", lambda x, y: torch.addmm(x, x, y, beta=0.5, alpha=2), r(3, 3), r(3, 3, seed=1), alike=False),
    two("baddbmm", lambda x, y: torch.baddbmm(x, x, y), r(2, 3, 3), r(2, 3, 3, seed=1)),
    two("einsum", lambda x, y: torch.einsum("bij,bkj->bik", x, y)),
    two("outer", torch.outer, r(3), r(4), alike=False),
    two("tensordot", lambda x, y: torch.tensordot(x, y, dims=([2, 1], [2, 1])), alike=False),
]
REDUCTIONS = [
    one("sum", lambda x: x.sum()),
    one("sum_dim", lambda x: x.sum((1, -1), keepdim=True)),
    one("sum_int", lambda x: x.int().sum(1)),
    one("sum_bool", lambda x: (x > 0).sum(1)),
    one("mean", lambda x: x.mean(1)),
    one("mean_all", lambda x: x.mean()),
    one("prod", lambda x: x.prod(1)),
    one("amax", lambda x: x.amax((1, 2))),
    one("amin", lambda x: x.amin(1, keepdim=True)),
    one("max_all", lambda x: x.max()),
    one("max_dim", lambda x: x.max(1)),
    one("min_dim", lambda x: x.min(2, keepdim=True)),
    one("argmax", lambda x: x.argmax(1)),
    one("argmin_all", lambda x: x.argmin()),
    one("any", lambda x: (x > 1.5).any(1)),
    one("all", lambda x: (x > -1.5).all()),
    one("var", lambda x: x.var(1)),
    one("var_biased", lambda x: x.var((1, 2), unbiased=False)),
    one("var_batch", lambda x: x.var(0)),
    one("std", lambda x: x.std(-1, keepdim=True)),
    one("std_all", lambda x: x.std()),
    one("std_mean", lambda x: torch.std_mean(x, 1)),
    one("norm", lambda x: x.norm(dim=1)),
    one("norm1", lambda x: x.norm(p=1, dim=-1)),
    one("norm3", lambda x: torch.linalg.vector_norm(x, 3, dim=-1)),
    one("norm_inf", lambda x: torch.linalg.vector_norm(x, float("inf"), dim=-1)),
    one("logsumexp", lambda x: torch.logsumexp(x, 1)),
    one("topk", lambda x: x.topk(2, dim=1)),
    one("topk_small", lambda x: x.topk(2, largest=False)),
    one("sort", lambda x: x.sort(1, descending=True)),
    one("argsort", lambda x: x.argsort(-1)),
    two("cdist", lambda x, y: torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")),
]
SHAPES = [
    one("view", lambda x: x.view(x.size(0), -1)),
    one("view_sizes", lambda x: x.view(x.shape[0] * x.shape[1], x.shape[2])),
    one("reshape", lambda x: x.reshape(-1, 12)),
    one("flatten", lambda x: x.flatten(1)),
    one("flatten_middle", lambda x: x.flatten(0, 1)),
    one("unflatten", lambda x: x.unflatten(2, (2, 2))),
    one("permute", lambda x: x.permute(2, 0, 1)),
    one("transpose", lambda x: x.transpose(0, -1)),
    one("t", lambda x: x.t(), r(3, 4)),
    one("movedim", lambda x: x.movedim(0, 2)),
    one("squeeze", lambda x: x.unsqueeze(1).squeeze(1)),
    one("squeeze_not", lambda x: x.squeeze(1)),
    one("expand", lambda x: x.unsqueeze(1).expand(-1, 5, -1, -1)),
    two("expand_as", lambda x, y: x[:, :1].expand_as(y)),
    one("repeat", lambda x: x.repeat(2, 1, 3)),
    one("repeat_more", lambda x: x.repeat(2, 1, 1, 1)),
    one("tile", lambda x: x.tile((2,))),
    one("repeat_interleave", lambda x: x.repeat_interleave(3, 1)),
    one("select", lambda x: x[:, -1]),
    one("slice", lambda x: x[:, 1:, ::2]),
    one("slice_negative", lambda x: x[..., -3:-1]),
    one("narrow", lambda x: x.narrow(1, 1, 2)),
    one("split", lambda x: x.split(2, 1)),
    one("split_sizes", lambda x: x.split([1, 3], 2)),
    one("chunk", lambda x: x.chunk(2, -1)),
    one("unbind", lambda x: x.unbind(1)),
    two("cat", lambda x, y: torch.cat([x, y, x], 1)),
    two("cat_mixed", lambda x, y: torch.cat([x, y], -1), None, WHOLE),
    two("stack", lambda x, y: torch.stack([x, y], 1)),
    one("flip", lambda x: x.flip(1, 2)),
    one("roll", lambda x: x.roll((1, -1), (1, 2))),
    one("roll_flat", lambda x: x.roll(3), alike=False),
    one("tril", lambda x: x.tril()),
    one("triu", lambda x: x.triu(1)),
    one("diff", lambda x: x.diff(dim=1)),
    one("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), IMAGE),
    one("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), r(2, 3, 8, 6)),
    one("channel_shuffle", lambda x: F.channel_shuffle(x, 2), IMAGE),
    one("pad", lambda x: F.pad(x, (1, 2), value=3.0)),
    one("pad_reflect", lambda x: F.pad(x, (1, 2), mode="reflect")),
    one("pad_replicate", lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"), IMAGE),
    one("pad_circular", lambda x: F.pad(x, (1, 2), mode="circular")),
    one("pad_negative", lambda x: F.pad(x, (-1, 1))),
    one("unfold_by_hand", lambda x: torch.stack([x[:, i : i + 2].sum(1) for i in range(2)], 1)),
    one("meshgrid", lambda x: torch.meshgrid(x[0, 0], x[0, 1], indexing="xy"), alike=True),
    one("numel", lambda x: x.sum() / x.numel()),
]
INDEXING = [
    two("index_select", lambda x, y: x.index_select(1, y), None, i(5, top=3), alike=False),
    two("index_batch", lambda x, y: x[y], None, i(5, top=2), alike=False),
    two("index_last", lambda x, y: x[..., y], None, i(5, top=4), alike=False),
    Case(
        "index_pair",
        Three(lambda x, y, z: x[y, z]).eval(),
        (r(4, 3, 5), i(6, top=4), i(6, top=3, seed=1)),
        False,
    ),
    Case(
        "index_apart",
        Three(lambda x, y, z: x[:, y, :, z]).eval(),
        (r(2, 4, 3, 5), i(6, top=4), i(6, top=5, seed=1)),
        False,
    ),
    Case(
        "index_inner",
        Three(lambda x, y, z: x[:, y, z]).eval(),
        (r(2, 4, 5, 3), i(6, top=4), i(6, top=5, seed=1)),
        False,
    ),
    one("index_mask", lambda x: x[x[:, 0, 0] > -5]),
    one("mask_all", lambda x: x[x > 0]),
    one("masked_select", lambda x: torch.masked_select(x, x > 0)),
    one("nonzero", lambda x: (x > 0).nonzero()),
    two("gather", lambda x, y: x.gather(1, y), None, i(2, 2, 4, top=3)),
    two("gather_small", lambda x, y: x.gather(2, y), None, i(2, 2, 3, top=4), alike=False),
    two("scatter", lambda x, y: x.scatter(1, y, 5.0), None, i(2, 1, 4, top=3)),
    two("scatter_add", lambda x, y: torch.zeros_like(x).scatter_add(1, y, x), None, i(2, 3, 4, top=3)),
    two("embedding", lambda x, y: F.embedding(x, y), i(2, 3), r(5, 4), alike=False),
    one("one_hot", lambda x: F.one_hot(x, 5), i(2, 3)),
    two("index_put", lambda x, y: _put(x, y), r(5, 4), i(2, top=5), alike=False),
    one("assign_slice", lambda x: _assign(x)),
    one("assign_select", lambda x: _assign_select(x)),
    one("assign_mask", lambda x: _assign_mask(x)),
    one("view_written", lambda x: _view_written(x)),
    one("index_fill", lambda x: x.index_fill(1, torch.tensor([0, 2]), 9.0)),
]


def _put(x, y):
    x = x.clone()
    x[y] = 7.0
    return x


def _assign(x):
    x = x.clone()
    x[:, 1:3, 2:] = x[:, 0:2, :2] * 2
    x[:, :, 0] += 1
    return x


def _assign_select(x):
    x = x.clone()
    x[:, 1] = 5.0
    x[:, -1, 0] = 6.0
    return x


def _assign_mask(x):
    x = x.clone()
    x[x > 1] = 0.25
    return x


def _view_written(x):
    base = x * 1
    flat = base.view(base.size(0), -1)
    flat.mul_(2)
    other = base.transpose(1, 2)
    base.add_(1)
    return base, flat, other


LAYERS = [
    one("linear", lambda x, m: m(x), None, nn.Linear(4, 5)),
    one("linear_no_bias", lambda x, m: m(x), r(3, 4), nn.Linear(4, 5, bias=False)),
    one("bilinear", lambda x, m: m(x, x * 2), r(3, 4), nn.Bilinear(4, 4, 5)),
    one("conv1d", lambda x, m: m(x), r(2, 4, 9), nn.Conv1d(4, 6, 3, padding=1, stride=2)),
    one("conv1d_same", lambda x, m: m(x), r(2, 4, 9), nn.Conv1d(4, 6, 4, padding="same", dilation=2)),
    one("conv1d_unbatched", lambda x, m: m(x), r(4, 9), nn.Conv1d(4, 6, 3), alike=False),
    one("conv2d", lambda x, m: m(x), IMAGE, nn.Conv2d(4, 6, 3, padding=(1, 2), dilation=2, groups=2)),
    one("conv3d", lambda x, m: m(x), r(2, 2, 4, 5, 6), nn.Conv3d(2, 3, 2)),
    one("conv_circular", lambda x, m: m(x), IMAGE, nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")),
    one("transpose1d", lambda x, m: m(x), r(2, 4, 9), nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1)),
    one("transpose2d", lambda x, m: m(x), IMAGE, nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2)),
    one("max_pool1d", lambda x: F.max_pool1d(x, 2), r(2, 3, 9)),
    one("max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE),
    one("max_pool_ceil", lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), IMAGE),
    one("max_pool_indices", lambda x: F.max_pool2d(x, 2, return_indices=True), IMAGE),
    one("avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1), IMAGE),
    one("avg_pool_excluded", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), IMAGE),
    one("avg_pool1d", lambda x: F.avg_pool1d(x, 2), r(2, 3, 9)),
    one("adaptive_one", lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    one("adaptive_even", lambda x: F.adaptive_avg_pool2d(x, (4, 3)), IMAGE),
    one("adaptive_uneven", lambda x: F.adaptive_avg_pool2d(x, (3, 5)), IMAGE),
    one("adaptive_max", lambda x: F.adaptive_max_pool2d(x, (3, 5)), IMAGE),
    one("adaptive_1d", lambda x: F.adaptive_avg_pool1d(x, 3), r(2, 3, 7)),
    one("batch_norm", lambda x, m: m(x), IMAGE, nn.BatchNorm2d(4)),
    one("batch_norm_plain", lambda x, m: m(x), r(2, 4), nn.BatchNorm1d(4, affine=False)),
    one("instance_norm", lambda x, m: m(x), IMAGE, nn.InstanceNorm2d(4, affine=True)),
    one("layer_norm", lambda x, m: m(x), None, nn.LayerNorm((3, 4))),
    one("layer_norm_plain", lambda x, m: m(x), None, nn.LayerNorm(4, elementwise_affine=False)),
    one("rms_norm", lambda x, m: m(x), None, nn.RMSNorm(4)),
    one("group_norm", lambda x, m: m(x), IMAGE, nn.GroupNorm(2, 4)),
    one("local_response", lambda x: F.local_response_norm(x, 3), IMAGE),
    one("dropout", lambda x, m: m(x), None, nn.Dropout(0.5)),
    one("nearest", lambda x: F.interpolate(x, scale_factor=2.0), IMAGE),
    one("nearest_size", lambda x: F.interpolate(x, size=(5, 13)), IMAGE),
    one("nearest_exact", lambda x: F.interpolate(x, size=(5, 13), mode="nearest-exact"), IMAGE),
    one("bilinear_up", lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), IMAGE),
    one("bilinear_size", lambda x: F.interpolate(x, size=(5, 13), mode="bilinear"), IMAGE),
    one("bilinear_corners", lambda x: F.interpolate(x, size=(5, 13), mode="bilinear", align_corners=True), IMAGE),
    one("bicubic", lambda x: F.interpolate(x, size=(5, 13), mode="bicubic"), IMAGE),
    one("linear_up", lambda x: F.interpolate(x, scale_factor=2.0, mode="linear"), r(2, 3, 7)),
    two("grid_sample", lambda x, y: F.grid_sample(x, y, align_corners=False), IMAGE,
        r(2, 5, 6, 2, low=-1.2, high=1.2)),
    two("grid_sample_border", lambda x, y: F.grid_sample(x, y, padding_mode="border", align_corners=True), IMAGE,
        r(2, 5, 6, 2, low=-1.2, high=1.2)),
    one("lstm", lambda x, m: m(x)[0], r(2, 5, 4), nn.LSTM(4, 6, batch_first=True)),
    one("lstm_all", lambda x, m: m(x), r(5, 2, 4), nn.LSTM(4, 6, 2, bidirectional=True), alike=False),
    one("lstm_no_bias", lambda x, m: m(x)[0], r(5, 2, 4), nn.LSTM(4, 6, bias=False)),
    one("gru", lambda x, m: m(x), r(5, 2, 4), nn.GRU(4, 6, 2, bidirectional=True), alike=False),
    one("gru_batch_first", lambda x, m: m(x)[0], r(2, 5, 4), nn.GRU(4, 6, batch_first=True)),
    one("rnn", lambda x, m: m(x), r(5, 2, 4), nn.RNN(4, 6), alike=False),
    one("rnn_relu", lambda x, m: m(x)[0], r(5, 2, 4), nn.RNN(4, 6, nonlinearity="relu")),
    one("lstm_cell", lambda x, m: m(x), r(2, 4), nn.LSTMCell(4, 6)),
    one("gru_cell", lambda x, m: m(x), r(2, 4), nn.GRUCell(4, 6)),
    one("rnn_cell", lambda x, m: m(x), r(2, 4), nn.RNNCell(4, 6)),
    one("attention", lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1), r(2, 3, 5, 4)),
    one("attention_causal", lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), r(2, 3, 5, 4)),
    one("attention_mask", lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(5, 5).tril() > 0),
        r(2, 3, 5, 4)),
    one("multihead", lambda x, m: m(x, x, x)[0], r(2, 5, 8), nn.MultiheadAttention(8, 2, batch_first=True)),
    one("multihead_weights", lambda x, m: m(x, x * 2, x), r(5, 2, 8), nn.MultiheadAttention(8, 2), alike=False),
    one("encoder_layer", lambda x, m: m(x), r(2, 5, 8),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")),
    one("zeros", lambda x: x + torch.zeros(x.size(0), 1, x.size(2)) + torch.ones_like(x)),
    one("full", lambda x: torch.full((x.size(0), 2), 3.5) + torch.full_like(x, 2)[:, :2, 0]),
    one("arange", lambda x: x + torch.arange(x.size(2)) + torch.arange(0.0, 1.0, 0.25)),
    one("arange_open", lambda x: torch.arange(x.size(0)).unsqueeze(1) * x[:, 0]),
    one("linspace", lambda x: x * torch.linspace(-1, 1, 4) + torch.eye(3, 4)),
    one("windows", lambda x: x * torch.hann_window(4) + torch.hamming_window(4)),
    one("new_zeros", lambda x: torch.cat([x.new_zeros(x.size(0), 1, 4), x], 1)),
]  # fmt: skip

CASES = [
    *FUNCTIONS, *ACTIVATIONS, *ARITHMETIC, *REDUCTIONS, *SHAPES, *INDEXING, *LAYERS,
]  # fmt: skip
