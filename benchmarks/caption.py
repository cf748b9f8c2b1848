"""Captions a second from JPEG, beside Data-Juicer's loop, at full size on one GPU.

    PYTHONPATH=scripts python benchmarks/caption.py --folder /tmp/caption --out caption.json

Builds BLIP2-OPT-2.7B with random weights, so that every caption has 12 tokens; the
peers and ours run in turns within one process, on the same pictures.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from caption_parts import (
    NEW_TOKENS,
    PlainPeer,
    build_captioner,
    draw_jpegs,
    flops_an_image,
    matmul_peak,
    seconds_of,
)

GIB = 1 << 30
OURS = "ours, start of the decoding processes included"


def main() -> None:
    """Build, measure, print the table and write the figures."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="for the model and the pictures")
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--images", type=int, default=10_240, help="pictures a turn of ours")
    cli.add_argument("--rounds", type=int, default=3, help="turns of each")
    cli.add_argument("--batch-size", type=int, default=256)
    cli.add_argument("--workers", type=int, default=14, help="decoding processes")
    cli.add_argument("--no-peers", action="store_true", help="measure ours alone")
    args = cli.parse_args()
    import torch

    model = args.folder / "model"
    if not (model / "config.json").is_file():
        build_captioner(model)
        torch.cuda.empty_cache()
    paths = draw_jpegs(args.folder / "images", 1024)
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    ours = Ours(model, args.batch_size, args.workers)
    many = [paths[index % len(paths)] for index in range(args.images)]
    torch.cuda.reset_peak_memory_stats()
    seconds_of(lambda: ours.run(many[: 4 * args.batch_size]))
    figures["ours_peak_reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
    figures["parts"] = ours.parts(paths[: args.batch_size])
    figures["attention_kernel_error"] = kernel_error()
    figures["agreement"] = ours.agreement(paths[:512])
    rates = {"ours": []}
    if not args.no_peers:
        rates |= turns(args, model, ours, many)
    else:
        for _ in range(args.rounds):
            ours.run(many)
            rates["ours"].append(ours.steady())
    report(figures, rates, args.out)


def report(figures: dict[str, Any], rates: dict[str, list[float]], out: Path) -> None:
    """Add the rates to the figures, write them and print the table."""
    figures["images_a_second"] = {
        name: {"median": round(statistics.median(found), 2), "turns": [round(f, 2) for f in found]}
        for name, found in rates.items()
    }
    flops, peak = flops_an_image(), matmul_peak()
    rate = statistics.median(rates["ours"])
    figures["tflop_an_image"] = {name: round(count / 1e12, 4) for name, count in flops.items()}
    figures["matmul_peak_tflops"] = round(peak, 1)
    figures["share_of_peak"] = round(rate * sum(flops.values()) / 1e12 / peak, 3)
    out.write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))
    for name, found in figures["images_a_second"].items():
        print(f"| {name} | {found['median']} | {rate / found['median']:.1f} |")


def turns(
    args: argparse.Namespace, model: Path, ours: "Ours", many: list[Path]
) -> dict[str, list[float]]:
    """Return the images a second of every side, measured in turns."""
    peers = {
        "Data-Juicer's loop, float32, 1 a batch": (PlainPeer(model, "float32", 1), 12),
        "Data-Juicer 1.6.1's default, float32, 8 a batch": (PlainPeer(model, "float32", 8), 48),
        "plain generate, bfloat16, 256 a batch": (PlainPeer(model, "bfloat16", 256), 512),
    }
    rates: dict[str, list[float]] = {name: [] for name in (*peers, OURS, "ours")}
    for peer, count in peers.values():
        peer.run(many[: min(count, 2 * peer.batch_size)])
    for _ in range(args.rounds):
        for name, (peer, count) in peers.items():
            part = many[:count]
            rates[name].append(count / seconds_of(lambda p=peer, s=part: p.run(s)))
        rates[OURS].append(len(many) / seconds_of(lambda: ours.run(many)))
        rates["ours"].append(ours.steady())
    return rates


def kernel_error() -> dict[str, float]:
    """Return the relative error of decoding attention, ours and torch's, against float64."""
    import torch

    from recap.caption.attention import attend, attend_plainly

    query = torch.randn(256, 32, 80, device="cuda", dtype=torch.bfloat16)
    stored = torch.randn(2, 256, 44, 32, 80, device="cuda", dtype=torch.bfloat16)
    exact = attend_plainly(query.double(), stored.double(), 40)
    return {
        name: float((function(query, stored, 40).double() - exact).norm() / exact.norm())
        for name, function in (("ours", attend), ("torch's", attend_plainly))
    }


class Ours:
    """The captioner as ``caption_shard.py`` runs it, without hashing and the store."""

    def __init__(self, model: Path, batch_size: int, workers: int) -> None:
        from recap.caption.engine import Captioner
        from recap.settings import CaptionSettings

        self._settings = CaptionSettings(
            max_new_tokens=NEW_TOKENS, batch_size=batch_size, dtype="bfloat16"
        )
        self._model, self._workers = model, workers
        self._engine = Captioner(model, self._settings)
        self.ends: list[tuple[float, int]] = []

    def run(self, paths: list[Path], engine: Any = None) -> list[str]:
        """Return the captions of images from files."""
        from recap.caption.pixels import ImageFile, pixel_batches
        from recap.hashing import sha256_file

        engine = engine or self._engine
        digests = {path: sha256_file(path) for path in set(paths)}
        files = [ImageFile(path.name, path, digests[path]) for path in paths]
        batches = pixel_batches(
            files,
            engine.pixels,
            batch_size=engine.images_per_batch,
            workers=self._workers,
            pin=True,
        )
        captions, self.ends = [], []
        for batch in engine.caption_batches(batches, [file.sha256 for file in files]):
            captions += [candidates[0] for candidates in batch]
            self.ends.append((time.perf_counter(), len(captions)))
        return captions

    def steady(self) -> float:
        """Return the images a second between the first and the last batch of the last run."""
        (first, done), (last, total) = self.ends[0], self.ends[-1]
        return (total - done) / (last - first)

    def parts(self, paths: list[Path]) -> dict[str, float]:
        """Return the milliseconds of the parts of one batch on the device."""
        import numpy as np
        import torch
        from PIL import Image

        engine = self._engine
        images = [Image.open(path).convert("RGB") for path in paths]
        start = time.perf_counter()
        stacked = np.stack([engine.pixels.shrink(image) for image in images])
        a_picture = (time.perf_counter() - start) / len(images)
        pixels = torch.from_numpy(stacked).cuda()
        with torch.inference_mode():
            values = engine.pixels.values(pixels).to(torch.bfloat16)
            prefix = torch.cat([engine._model.prefix(p) for p in values.split(128)])
            engine._decoder.decode(prefix, None)
            found = {
                "normalise": lambda: engine.pixels.values(pixels).to(torch.bfloat16),
                "vision and Q-Former": lambda: list(map(engine._model.prefix, values.split(128))),
                "prefill and decode": lambda: engine._decoder.decode(prefix, None),
            }
            times = {
                name: round(1000 * min(seconds_of(part) for _ in range(5)), 1)
                for name, part in found.items()
            }
            buffers = engine._decoder._buffers
            times["resizing of one picture, one core"] = round(1000 * a_picture, 2)
            tens = [seconds_of(lambda: [buffers.replay(6) for _ in range(10)]) for _ in "abc"]
            times["one decoding step"] = round(100 * min(tens), 2)
        return times

    def agreement(self, paths: list[Path]) -> dict[str, float]:
        """Return the share of equal captions among other neighbours and other batch sizes."""
        import random

        from recap.caption.engine import Captioner

        first = dict(zip(paths, self.run(paths), strict=True))
        mixed = random.Random(1).sample(paths, len(paths))
        found = {"other neighbours, same batch size": self._share(first, mixed, self._engine)}
        settings = self._settings.model_copy(update={"batch_size": 64})
        smaller = Captioner(self._model, settings)
        found["batches of 64"] = self._share(first, paths, smaller)
        return found | {"captions": len(paths), "distinct": len(set(first.values()))}

    def _share(self, first: dict[Path, str], paths: list[Path], engine: Any) -> float:
        again = dict(zip(paths, self.run(paths, engine), strict=True))
        return round(sum(first[path] == again[path] for path in paths) / len(paths), 4)


if __name__ == "__main__":
    main()
