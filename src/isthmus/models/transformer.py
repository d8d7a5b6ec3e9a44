"""`vit`: the vision transformer, for small images."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus._check import require
from isthmus.models.shapes import Shape, image_shape, require_size, require_task


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, T, w) mixed by softmax(q k' / sqrt(w / heads)) v."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """One block: LayerNorm before attention and before the two-layer network, each added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, T, w)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patches and a class token, each with its learned position, through encoder blocks; logits from the class token."""

    def __init__(self, num_classes: int, patches: nn.Conv2d, positions: int, blocks: list[Encoder]):
        super().__init__()
        width = patches.out_channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.patch_embed = nn.ModuleDict({"proj": patches})
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        tokens = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def vit(
    num_classes: int, input_shape: Shape, *, width: int = 192, depth: int = 6, heads: int = 3, patch: int = 4
) -> nn.Module:
    """Return a vision transformer (Dosovitskiy et al. 2021): patch embedding, class token, pre-norm encoder, hidden layers of 4w.

    With T = (H / patch) (W / patch), parameters w (C patch^2 + 1) + w (T + 2) + depth (12 w^2 + 13 w) + 2 w + (w + 1) classes;
    2,693,578 at the defaults for 3x32x32 and 10 classes. Weights normal with deviation 0.02,
    biases zero, no dropout. Tensor names are those of timm's vision transformer. `heads` divides `width`, `patch` both sides.
    """
    require_task(num_classes, input_shape)
    for name, value in (("width", width), ("depth", depth), ("heads", heads), ("patch", patch)):
        require_size(name, value)
    require(width % heads == 0, "width", f"be a multiple of the {heads} heads", width)
    channels, height, breadth = image_shape(input_shape, model=f"vit with patches of {patch}", least=patch)
    divides = height % patch == 0 and breadth % patch == 0
    require(divides, "patch", f"divide the sides of a {height} x {breadth} image", patch)
    cells = (height // patch) * (breadth // patch)
    patches = nn.Conv2d(channels, width, patch, patch)
    model = VisionTransformer(num_classes, patches, cells + 1, [Encoder(width, heads) for _ in range(depth)])
    _initialise(model)
    return model


def _initialise(model: VisionTransformer) -> None:
    nn.init.trunc_normal_(model.cls_token, std=0.02)
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
