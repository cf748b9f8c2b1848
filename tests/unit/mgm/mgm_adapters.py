"""Adapters of every kind, and the tools run as their users run them."""

import json

import pytest

from recap.cli import run_cli
from recap.train_settings import LoraSettings

KINDS = {
    "LoRA": LoraSettings(),
    "rsLoRA": LoraSettings(rank=8, use_rslora=True),
    "DoRA": LoraSettings(rank=4, alpha=12, use_dora=True),
    "patterns": LoraSettings(
        use_rslora=True,
        use_dora=True,
        rank_pattern={"q_proj": 4, r"layers\.1\.mlp\.(up|gate)_proj": 2},
        alpha_pattern={"model.layers.0.self_attn.o_proj": 5.0},
    ),
}


def write_adapter(parts, folder, settings, *, dtype="float32"):
    """Save an adapter that moved: random B, and for DoRA rows of other lengths."""
    import torch

    from recap.mgm.checkpoint import build_model, describe_base, save_adapter
    from recap.mgm.lora import add_lora

    model = build_model(parts, dtype=dtype, seed=3, image_aspect_ratio="pad")
    add_lora(model, settings, seed=4)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
        if "lora_magnitude" in name:
            parameter.data *= 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
    save_adapter(model, folder, base=describe_base(parts))
    return folder


def parts_flags(parts):
    """Return the command line flags that name the parts."""
    return [
        "--base", parts.language_model, "--clip", parts.clip, "--convnext", parts.convnext,
        "--image-size-aux", parts.image_size_aux,
    ]  # fmt: skip


def run_json(capsys, script, *arguments):
    """Run a tool with ``--json``; return exit code and the object on stdout."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_cli(
            script.main, script.parser(), [str(argument) for argument in (*arguments, "--json")]
        )
        raise SystemExit(0)
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["exit_code"] == stopped.value.code
    assert outcome["ok"] is (stopped.value.code == 0)
    return stopped.value.code, outcome
