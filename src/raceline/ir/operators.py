"""Which operators mean something: those of ONNX's own schemas and ONNX Runtime's contributed ones."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTRIB_DOMAIN = "com.microsoft"

# Operators that ONNX Runtime registers in its own domain for any build (docs/ContribOperators.md there). That
# engine alone runs a model with one of them; a test compares this table with the installed runtime.
CONTRIB_OPERATORS = frozenset(
    """
    Attention AttnLSTM BeamSearch BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu
    BifurcationDetector BitmaskBiasDropout BitmaskDropout CDist ComplexMul ComplexMulConj
    ConvTransposeWithDynamicPads CropAndResize DecoderAttention DecoderMaskedMultiHeadAttention
    DecoderMaskedSelfAttention DequantizeBFP DequantizeLinear DequantizeWithOrder DynamicQuantizeLSTM
    DynamicQuantizeMatMul DynamicTimeWarping EPContext EmbedLayerNormalization ExpandDims FastGelu
    FusedConv FusedGemm FusedMatMul FusedMatMulActivation GatedRelativePositionBias GatherBlockQuantized
    GatherND Gelu GemmFastGelu GemmFloat8 GemmaRotaryEmbedding GreedySearch GridSample GroupNorm
    GroupQueryAttention Inverse Irfft IsAllFinite LongformerAttention MatMulBnb4 MatMulFpQ4
    MatMulInteger16 MatMulIntegerToFloat MatMulNBits MaxpoolWithMask MoE MulInteger MultiHeadAttention
    MurmurHash3 NGramRepeatBlock NhwcConv NhwcFusedConv NhwcMaxPool PackedAttention
    PackedMultiHeadAttention PagedAttention Pad QAttention QEmbedLayerNormalization QGemm QLinearAdd
    QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul
    QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QMoE QOrderedAttention QOrderedGelu
    QOrderedLayerNormalization QOrderedLongformerAttention QOrderedMatMul QuantizeBFP QuantizeLinear
    QuantizeWithOrder QuickGelu Range ReduceSumInteger RelativePositionBias RemovePadding RestorePadding
    Rfft RotaryEmbedding SampleOp Sampling SkipGroupNorm SkipLayerNormalization
    SkipSimplifiedLayerNormalization SparseAttention SparseToDenseMatMul Tokenizer TorchEmbedding
    TransposeMatMul Trilu UnfoldTensor Unique WhisperBeamSearch WordConvEmbedding
    """.split()
)


def normal_domain(domain: str) -> str:
    """The domain by its short name; `ai.onnx` is the empty one."""
    return "" if domain == "ai.onnx" else domain


def is_known(domain: str, operator: str, opsets: Mapping[str, int]) -> bool:
    """Whether an operator is defined at the opset its model imports, functions of the model aside."""
    domain = normal_domain(domain)
    if domain == CONTRIB_DOMAIN:
        return operator in CONTRIB_OPERATORS
    version = opsets.get(domain)
    return version is not None and schema(domain, operator, version) is not None


@lru_cache(maxsize=4096)
def schema(domain: str, operator: str, opset: int) -> Any | None:
    """ONNX's schema of an operator at an opset; None where it is undefined or withdrawn."""
    import onnx

    try:
        found = onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found


def newest_opset() -> int:
    """The newest opset whose meaning the installed onnx package knows."""
    import onnx

    return int(onnx.defs.onnx_opset_version())
