"""OLMo's blocks in plain PyTorch, on OLMo's own tensors: written from the published structure, not from our conversion.

OLMo 2 (arXiv:2501.00656, section 3.1): RMSNorm after attention and feed-forward, RMSNorm of queries and keys, rotary
positions, SwiGLU. OLMo 1 (arXiv:2402.00838, section 2.1): LayerNorm without weights before them. Fused matrices as in
olmo/model.py of ai2-olmo 0.6.0. Dimension key: B batch, T time, D width, H heads, G heads of keys, K width of a head."""

import base64
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor

COMMON: dict[str, Any] = {
    "d_model": 24,
    "n_heads": 4,
    "n_layers": 2,
    "mlp_hidden_size": 40,
    "vocab_size": 37,
    "embedding_size": 40,
    "max_sequence_length": 32,
    "rope": True,
    "include_bias": False,
    "bias_for_layer_norm": False,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
    "attention_dropout": 0.0,
    "eos_token_id": 0,
}
OLMO2 = COMMON | {
    "n_kv_heads": 2,
    "norm_after": True,
    "attention_layer_norm": True,
    "layer_norm_type": "rms",
    "layer_norm_eps": 1e-6,
    "rope_theta": 500_000,
    "weight_tying": False,
}
OLMO1 = COMMON | {"layer_norm_type": "default", "layer_norm_with_affine": False, "weight_tying": True, "clip_qkv": 0.5}


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    width, hidden, rows = config["d_model"], config["mlp_hidden_size"], config["embedding_size"]
    shared = width // config["n_heads"] * config.get("n_kv_heads", config["n_heads"])
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (rows, width)}
    for layer in range(config["n_layers"]):
        block = f"transformer.blocks.{layer}"
        if config.get("norm_after"):
            shapes |= {f"{block}.{name}.weight": (width,) for name in ("q_norm", "attn_norm", "ff_norm")}
            shapes[f"{block}.k_norm.weight"] = (shared,)
        shapes |= {f"{block}.att_proj.weight": (width + 2 * shared, width), f"{block}.attn_out.weight": (width, width)}
        shapes |= {f"{block}.ff_proj.weight": (hidden, width), f"{block}.ff_out.weight": (width, hidden // 2)}
    if config.get("norm_after"):
        shapes["transformer.ln_f.weight"] = (width,)
    if not config["weight_tying"]:
        shapes["transformer.ff_out.weight"] = (rows, width)
    return {
        name: torch.randn(shape, generator=draw) * (0.3 if len(shape) > 1 else 0.2) + (len(shape) == 1)
        for name, shape in shapes.items()
    }


def logits(weights: dict[str, Tensor], config: dict[str, Any], tokens_BT: Tensor) -> Tensor:
    """(B, T, vocabulary): what the published model computes."""
    after = config.get("norm_after", False)
    x_BTD = weights["transformer.wte.weight"][tokens_BT]
    for layer in range(config["n_layers"]):
        own = {name.split(".")[3]: w for name, w in weights.items() if name.startswith(f"transformer.blocks.{layer}.")}
        h_BTD = x_BTD if after else norm(x_BTD, None, config)
        h_BTD = attention(own, config, h_BTD)
        x_BTD = x_BTD + (norm(h_BTD, own["attn_norm"], config) if after else h_BTD)
        h_BTD = x_BTD if after else norm(x_BTD, None, config)
        up, gate = (h_BTD @ own["ff_proj"].T).chunk(2, dim=-1)
        h_BTD = (F.silu(gate) * up) @ own["ff_out"].T
        x_BTD = x_BTD + (norm(h_BTD, own["ff_norm"], config) if after else h_BTD)
    x_BTD = norm(x_BTD, weights.get("transformer.ln_f.weight"), config)
    return x_BTD @ weights.get("transformer.ff_out.weight", weights["transformer.wte.weight"]).T


def attention(own: dict[str, Tensor], config: dict[str, Any], x_BTD: Tensor) -> Tensor:
    B, T, D = x_BTD.shape
    heads = config["n_heads"]
    groups, size = config.get("n_kv_heads", heads), D // heads
    fused = x_BTD @ own["att_proj"].T
    if (clip := config.get("clip_qkv")) is not None:
        fused = fused.clamp(-clip, clip)
    q, k, v = fused.split([D, groups * size, groups * size], dim=-1)
    if "q_norm" in own:
        q, k = norm(q, own["q_norm"], config), norm(k, own["k_norm"], config)
    q_BHTK = rotated(q.view(B, T, heads, size).transpose(1, 2), config)
    k_BGTK = rotated(k.view(B, T, groups, size).transpose(1, 2), config)
    v_BGTK = v.view(B, T, groups, size).transpose(1, 2)
    k_BHTK, v_BHTK = (each.repeat_interleave(heads // groups, dim=1) for each in (k_BGTK, v_BGTK))
    scores = q_BHTK @ k_BHTK.transpose(-1, -2) / size**0.5
    scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
    return (scores.softmax(-1) @ v_BHTK).transpose(1, 2).reshape(B, T, D) @ own["attn_out"].T


def rotated(x_BHTK: Tensor, config: dict[str, Any]) -> Tensor:
    """Rotary positions (Su et al. 2021), the two halves of a head as the real and the imaginary parts."""
    T, K = x_BHTK.shape[-2:]
    angle_TK = torch.arange(T)[:, None] / config.get("rope_theta", 10_000) ** (torch.arange(0, K, 2) / K)
    real, imaginary = x_BHTK.chunk(2, dim=-1)
    turned = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle_TK), angle_TK)
    return torch.cat([turned.real, turned.imag], dim=-1)


def norm(x: Tensor, weight: Tensor | None, config: dict[str, Any]) -> Tensor:
    if config["layer_norm_type"] == "rms":
        assert weight is not None
        return weight * x / (x.square().mean(-1, keepdim=True) + config["layer_norm_eps"]).sqrt()
    return F.layer_norm(x, x.shape[-1:])


def encoded(*keys: Any, is_pickled: bool = False) -> str:
    """A name as ai2-olmo's safetensors have it."""
    return base64.urlsafe_b64encode(pickle.dumps((keys, is_pickled))).decode()


def write(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], form: str, optimizer: Any = None) -> Path:
    """An OLMo folder; form: `pt`, `safetensors` with OLMo's encoded names, or `plain` ones. optimizer: its state dict."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"run_name": "reference", "model": config}))
    if form == "pt":
        torch.save(weights, folder / "model.pt")
        if optimizer:
            torch.save(optimizer, folder / "optim.pt")
        return folder
    save_file({encoded(n) if form == "safetensors" else n: t for n, t in weights.items()}, folder / "model.safetensors")
    if optimizer:
        flat = {
            encoded("state", number, part): value.clone()
            for number, state in optimizer["state"].items()
            for part, value in state.items()
        }
        groups = torch.frombuffer(bytearray(pickle.dumps(optimizer["param_groups"])), dtype=torch.uint8)
        save_file(flat | {encoded("param_groups", is_pickled=True): groups}, folder / "optim.safetensors")
    return folder
