"""ViT-Ti/16: a transformer over 16x16 patches of a picture.

Letters: B batch, C channels, H height, W width, S tokens (patches and one class token), D hidden width,
A heads, E width of one head.
"""

import torch
from torch import Tensor, nn

from raceline.ir import Values
from raceline.zoo import Entry, Published, image_input

NORM_EPS = 1e-6


class SelfAttention(nn.Module):
    """Multi-head attention of the tokens among themselves, one projection for query, key and value."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.project = nn.Linear(hidden, hidden)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """(B, S, D) to the same."""
        batch, tokens, hidden = x_BSD.shape
        split = self.query_key_value(x_BSD).view(batch, tokens, 3, self.heads, hidden // self.heads)
        query_BASE, key_BASE, value_BASE = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BASE = nn.functional.scaled_dot_product_attention(query_BASE, key_BASE, value_BASE)
        return self.project(mixed_BASE.transpose(1, 2).reshape(batch, tokens, hidden))


class Layer(nn.Module):
    """Attention, then two linear layers with GELU; each normalised before and added after."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm_attend = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.attend = SelfAttention(hidden, heads)
        self.norm_think = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.think = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, x_BSD: Tensor) -> Tensor:
        """(B, S, D) to the same."""
        x_BSD = x_BSD + self.attend(self.norm_attend(x_BSD))
        return x_BSD + self.think(self.norm_think(x_BSD))


class VisionTransformer(nn.Module):
    """Patches, class token, learnt positions, layers, 1000 classes from the class token.

    Args:
        side: height and width of the picture, in pixels; fixed, as positions are learnt.
    """

    def __init__(
        self, hidden: int, heads: int, depth: int, side: int = 224, patch: int = 16, num_classes: int = 1000
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, hidden, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.positions = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, hidden))
        self.layers = nn.Sequential(*(Layer(hidden, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.classify = nn.Linear(hidden, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes) of normalised RGB pictures (B, 3, side, side)."""
        patches_BSD = self.embed(images_BCHW).flatten(2).transpose(1, 2)
        first_B1D = self.class_token.expand(patches_BSD.shape[0], -1, -1)
        tokens_BSD = torch.cat((first_B1D, patches_BSD), dim=1) + self.positions
        return self.classify(self.norm(self.layers(tokens_BSD))[:, 0])


def vit_tiny() -> VisionTransformer:
    """ViT-Ti/16 at 224 pixels."""
    return VisionTransformer(hidden=192, heads=3, depth=12)


MODELS = (
    Entry("vit_tiny", "classify", (image_input(224, Values(-1.0, 1.0, source="user")),), ("logits",),
          parameters=5_717_416, gflop=2.15, build=vit_tiny,
          published=Published("top-1 accuracy", "ImageNet-1k", 0.722, "Touvron et al., DeiT, ICML 2021, table 5"),
          source="Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021; Ti of Touvron et al. 2021"),
)  # fmt: skip
