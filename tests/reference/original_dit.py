"""What DiT, SiT and LightningDiT give, computed with PyTorch from their papers' formulas on tensors of their names.

    python tests/reference/original_dit.py      writes tests/reference/original_dit.npz

DiT: Peebles & Xie 2022, section 3.2 and figure 3. LightningDiT: Yao et al. 2025, section 4.2: RMSNorm with a scale,
SwiGLU, RoPE over both axes on pairs of neighbouring features, next to DiT's fixed positions.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

WIDTH, HEADS, DEPTH, CLASSES = 16, 2, 2, 10


def shapes(patch: int, channels: int, out: int, side: int, lightning: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint."""
    hidden = 4 * WIDTH * 2 // 3 if lightning else 4 * WIDTH
    table = {
        "pos_embed": (1, side * side, WIDTH),
        "x_embedder.proj.weight": (WIDTH, channels, patch, patch),
        "x_embedder.proj.bias": (WIDTH,),
        "t_embedder.mlp.0.weight": (WIDTH, 256),
        "t_embedder.mlp.0.bias": (WIDTH,),
        "t_embedder.mlp.2.weight": (WIDTH, WIDTH),
        "t_embedder.mlp.2.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
        "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
        "final_layer.linear.weight": (patch * patch * out, WIDTH),
        "final_layer.linear.bias": (patch * patch * out,),
    }
    first, second, wide = ("mlp.w12", "mlp.w3", 2 * hidden) if lightning else ("mlp.fc1", "mlp.fc2", hidden)
    for i in range(DEPTH):
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            (first, wide, WIDTH),
            (second, WIDTH, hidden),
            ("adaLN_modulation.1", 6 * WIDTH, WIDTH),
        ):
            table[f"blocks.{i}.{name}.weight"] = (rows, columns)
            table[f"blocks.{i}.{name}.bias"] = (rows,)
        if lightning:
            table[f"blocks.{i}.norm1.weight"] = table[f"blocks.{i}.norm2.weight"] = (WIDTH,)
    if lightning:
        table["final_layer.norm_final.weight"] = (WIDTH,)
    return table


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor's values, from its name."""
    if name == "pos_embed":
        return positions(int(shape[1] ** 0.5))[None]
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.2
    return (values * scale + (1.0 if "norm" in name else 0.0)).astype(np.float32)


def positions(side: int) -> np.ndarray:
    """DiT's fixed positions: half of the features for the column, half for the row, sines before cosines."""
    frequencies = 1 / 10_000 ** (np.arange(WIDTH // 4) / (WIDTH // 4))
    row, column = np.divmod(np.arange(side * side), side)
    parts = []
    for place in (column, row):
        parts += [np.sin(np.outer(place, frequencies)), np.cos(np.outer(place, frequencies))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def forward(w, z, t, y, patch: int, out: int, lightning: bool):
    """The network on NCHW latents."""
    import torch
    import torch.nn.functional as F

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, x):
        if lightning:
            return w[f"{name}.weight"] * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
        return F.layer_norm(x, (WIDTH,), eps=1e-6)

    def embedding(t):
        frequencies = torch.exp(-np.log(10_000) * torch.arange(128) / 128)
        angles = t[:, None] * frequencies[None]
        return torch.cat([angles.cos(), angles.sin()], dim=1)

    def turn(x, side):
        """RoPE as multiplication of complex numbers."""
        d = WIDTH // HEADS
        frequencies = 10_000.0 ** (-torch.arange(d // 4) / (d // 4))
        row, column = np.divmod(np.arange(side * side), side)
        angles = torch.cat([torch.outer(torch.from_numpy(p).float(), frequencies) for p in (row, column)], dim=1)
        numbers = torch.view_as_complex(x.reshape(*x.shape[:-1], d // 2, 2).contiguous())
        return torch.view_as_real(numbers * torch.polar(torch.ones_like(angles), angles)).reshape(x.shape)

    b, _, _, side = z.shape
    side //= patch
    x = F.conv2d(z, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=patch)
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"]
    c = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", embedding(t))))
    c = c + w["y_embedder.embedding_table.weight"][y]
    for i in range(DEPTH):
        parts = linear(f"blocks.{i}.adaLN_modulation.1", F.silu(c))[:, None].chunk(6, dim=-1)
        h = norm(f"blocks.{i}.norm1", x) * (1 + parts[1]) + parts[0]
        q, k, v = (
            p.reshape(b, -1, HEADS, WIDTH // HEADS).transpose(1, 2)
            for p in linear(f"blocks.{i}.attn.qkv", h).chunk(3, dim=-1)
        )
        if lightning:
            q, k = turn(q, side), turn(k, side)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + parts[2] * linear(f"blocks.{i}.attn.proj", h)
        h = norm(f"blocks.{i}.norm2", x) * (1 + parts[4]) + parts[3]
        if lightning:
            one, two = linear(f"blocks.{i}.mlp.w12", h).chunk(2, dim=-1)
            h = linear(f"blocks.{i}.mlp.w3", F.silu(one) * two)
        else:
            h = linear(f"blocks.{i}.mlp.fc2", F.gelu(linear(f"blocks.{i}.mlp.fc1", h), approximate="tanh"))
        x = x + parts[5] * h
    shift, scale = linear("final_layer.adaLN_modulation.1", F.silu(c))[:, None].chunk(2, dim=-1)
    x = linear("final_layer.linear", norm("final_layer.norm_final", x) * (1 + scale) + shift)
    x = x.reshape(b, side, side, patch, patch, out).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, out, side * patch, side * patch)


CASES = {"dit": (2, 4, 8, False), "lightning": (1, 6, 6, True)}
"""patch, channels, output channels, whether it is LightningDiT."""


def main() -> None:
    import torch

    data = {}
    for name, (patch, channels, out, lightning) in CASES.items():
        for i, side in enumerate((4, 6)):
            table = shapes(patch, channels, out, side, lightning)
            w = {key: torch.from_numpy(weights(key, shape)) for key, shape in table.items()}
            z = np.random.RandomState(i).standard_normal((3, channels, side * patch, side * patch)).astype(np.float32)
            t = np.array([0.1, 0.5, 1.0] if lightning else [999.0, 10.0, 0.0], np.float32)
            y = np.array([0, CLASSES, 3])
            output = forward(w, *map(torch.from_numpy, (z, t, y)), patch, out, lightning)
            prefix = f"{name}/{i}/"
            data |= {prefix + "z": np.moveaxis(z, 1, -1), prefix + "t": t, prefix + "label": y.astype(np.int32)}
            data[prefix + "output"] = np.moveaxis(output.numpy(), 1, -1)
            data[prefix + "shapes"] = np.array(json.dumps({key: list(shape) for key, shape in table.items()}))
    np.savez_compressed(Path(__file__).parent / "original_dit.npz", **data)


if __name__ == "__main__":
    main()
