"""MiniLM-L6: a six-layer BERT encoder of width 384, for embeddings of short texts.

Letters: B batch, S tokens, D hidden width, A heads, E width of one head.
"""

import torch
from torch import Tensor, nn

from raceline.ir import TensorSpec, Values
from raceline.zoo import BATCH_AXIS, Entry

NORM_EPS = 1e-12
VOCABULARY = 30_522
MAX_TOKENS = 512


class Embeddings(nn.Module):
    """Word, position and segment vectors, added and normalised."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, hidden)
        self.positions = nn.Embedding(MAX_TOKENS, hidden)
        self.segments = nn.Embedding(2, hidden)
        self.norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.register_buffer("index", torch.arange(MAX_TOKENS)[None], persistent=False)

    def forward(self, ids_BS: Tensor, segments_BS: Tensor) -> Tensor:
        """Token and segment numbers (B, S) to vectors (B, S, D)."""
        places_1SD = self.positions(self.index[:, : ids_BS.shape[1]])
        return self.norm(self.words(ids_BS) + self.segments(segments_BS) + places_1SD)


class SelfAttention(nn.Module):
    """Multi-head attention with separate projections for query, key and value."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.project = nn.Linear(hidden, hidden)

    def _split(self, x_BSD: Tensor) -> Tensor:
        """(B, S, D) to (B, A, S, E)."""
        return x_BSD.view(*x_BSD.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x_BSD: Tensor, bias_B11S: Tensor) -> Tensor:
        """(B, S, D) to the same; `bias_B11S` is added to the scores of each token looked at."""
        query, key, value = (self._split(f(x_BSD)) for f in (self.query, self.key, self.value))
        mixed_BASE = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias_B11S)
        return self.project(mixed_BASE.transpose(1, 2).reshape(x_BSD.shape))


class Layer(nn.Module):
    """Attention, then two linear layers with GELU; each added and normalised after."""

    def __init__(self, hidden: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attend = SelfAttention(hidden, heads)
        self.norm_attend = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.think = nn.Sequential(nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden))
        self.norm_think = nn.LayerNorm(hidden, eps=NORM_EPS)

    def forward(self, x_BSD: Tensor, bias_B11S: Tensor) -> Tensor:
        """(B, S, D) to the same."""
        x_BSD = self.norm_attend(x_BSD + self.attend(x_BSD, bias_B11S))
        return self.norm_think(x_BSD + self.think(x_BSD))


class MiniLM(nn.Module):
    """Embeddings, encoder layers, and a pooled vector from the first token."""

    def __init__(self, hidden: int = 384, heads: int = 12, inner: int = 1536, depth: int = 6) -> None:
        super().__init__()
        self.embed = Embeddings(hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, inner) for _ in range(depth))
        self.pool = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode token numbers (B, S); mask 1 for text and 0 for padding, segment 0 or 1.

        Returns:
            (B, S, D) one vector a token, and (B, D) the pooled vector in -1..1.
        """
        x_BSD = self.embed(input_ids, token_type_ids)
        padding_B11S = 1.0 - attention_mask[:, None, None, :].to(x_BSD.dtype)
        bias_B11S = padding_B11S * torch.finfo(x_BSD.dtype).min
        for layer in self.layers:
            x_BSD = layer(x_BSD, bias_B11S)
        return x_BSD, self.pool(x_BSD[:, 0])


def _tokens(name: str, high: int) -> TensorSpec:
    return TensorSpec(name, "int64", (BATCH_AXIS, 128), Values(0, high, source="user"))


MODELS = (
    Entry("minilm_l6", "embed-text",
          (_tokens("input_ids", VOCABULARY - 1), _tokens("attention_mask", 1), _tokens("token_type_ids", 1)),
          ("last_hidden_state", "pooler_output"), parameters=22_713_216, gflop=2.72, build=MiniLM,
          source="Wang et al., MiniLM, NeurIPS 2020; shapes of all-MiniLM-L6-v2"),
)  # fmt: skip
