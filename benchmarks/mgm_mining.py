"""Cost of the vision side at full size: ConvNeXt tower and mining, against the plain formula.

Random weights, bfloat16 activations, projectors in float32; one picture of 768
pixels, and one of 1536 as four crops and the whole. Peak memory is what a step
needs beyond its inputs; wall time includes launching kernels.

    PYTHONPATH=scripts python benchmarks/mgm_mining.py --out mining.json
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from recap.mgm.convnext import ConvNextTower
from recap.mgm.mining import build_unit, mine_patch_info
from recap.mgm.vision import cut_aux_views

LAYOUTS = ((768, 1, False), (1536, 2, True))
REPEATS = 5


def main() -> None:
    """Measure every layout and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="figures as JSON")
    args = parser.parse_args()
    torch.manual_seed(0)
    with torch.device("cuda"):
        tower = ConvNextTower([3, 3, 27, 3], [192, 384, 768, 1536]).bfloat16().eval()
        units = [build_unit(1024, 1024), build_unit(2880, 1024), build_unit(2880, 1024)]
    rows = []
    for size, grid, whole in LAYOUTS:
        images = torch.randn(1, 3, size, size, device="cuda")
        with torch.no_grad():
            maps = cut_aux_views(tower(images), grid, whole)
            rows.append({"step": "tower", "size": size, **measured(partial(tower, images))})
        for name, function in (("mining", mine_patch_info), ("plain formula", plain)):
            rows.append(
                {"step": name, "size": size, **measured(training_step(function, maps, units))}
            )
    device = torch.cuda.get_device_name()
    document = {"device": device, "torch": torch.__version__, "rows": rows}
    args.out.write_text(json.dumps(document, indent=2))


def training_step(
    function: Callable[..., torch.Tensor], maps: list[torch.Tensor], units: list[nn.Sequential]
) -> Callable[[], None]:
    """Return a forward and backward pass over all views."""
    tokens = [torch.randn(1, 576, 1024, device="cuda").bfloat16() for _ in maps]

    def step() -> None:
        for unit in units:
            unit.zero_grad(set_to_none=True)
        views = zip(tokens, maps, strict=True)
        torch.stack(
            [function(x, a, *units).float().square().mean() for x, a in views]
        ).sum().backward()

    return step


def plain(tokens: torch.Tensor, aux: torch.Tensor, *units: nn.Sequential) -> torch.Tensor:
    """Compute mining as it is written down: keys and values of every candidate."""
    blocks = aux.reshape(1, 2880, 24, 8, 24, 8).permute(0, 2, 4, 3, 5, 1).reshape(1, 576, 64, 2880)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        q, k, v = units[0](tokens).unsqueeze(2), units[1](blocks), units[2](blocks)
    logits = torch.nan_to_num(q @ k.transpose(-1, -2) / 32)
    return (logits.softmax(-1) @ v).squeeze(2)


def measured(step: Callable[[], object]) -> dict[str, float]:
    """Return wall seconds a run and peak GiB beyond what was there before."""
    step()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(REPEATS):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / REPEATS
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    return {"seconds": round(seconds, 4), "peak_gib": round(peak, 3)}


if __name__ == "__main__":
    main()
