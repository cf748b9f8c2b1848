"""A micro model folder and a small training set, made once a session."""

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from recap.mgm.micro import write_micro_parts
from recap.mgm.parts import ModelParts

# Micro models lose more to waiting threads than they win.
os.environ["OMP_NUM_THREADS"] = "1"

COLORS = ("red", "green", "blue", "white", "black", "gray")
QUESTIONS = ("What is this?", "Describe the image concisely.")


class World:
    """Paths of models, images and training sets, and the command line that uses them."""

    def __init__(self, root: Path, samples: int = 32, conversation: str = "gemma") -> None:
        self.root = root
        self.images = root / "images"
        parts = write_micro_parts(
            root / "models",
            words=COLORS,
            hidden_size=64,
            layers=2,
            dims=(8, 16, 24, 32),
            conversation=conversation,
        )
        self.parts: ModelParts = replace(parts, image_size_aux=64)
        self.images.mkdir()
        self.captions = self.write_set("captions.json", samples, text_only=0)
        self.instructions = self.write_set("instructions.json", samples, text_only=12)

    def write_set(self, name: str, count: int, text_only: int) -> Path:
        draw = random.Random(name)
        entries = []
        for number in range(count):
            color = draw.choice(COLORS)
            entry = {"id": f"{name[:3]}{number:04d}"}
            answer = f"a {color} square " + "and more " * draw.randrange(4)
            if number < count - text_only:
                question = f"<image>\n{draw.choice(QUESTIONS)}"
                entry["image"] = f"{entry['id']}.png"
                Image.new("RGB", (draw.randrange(40, 90), 64), color).save(
                    self.images / entry["image"]
                )
            else:
                question = "Name a color."
            entry["conversations"] = [
                {"from": "human", "value": question},
                {"from": "gpt", "value": answer.strip()},
            ]
            entries.append(entry)
        path = self.root / name
        path.write_text(json.dumps(entries))
        return path

    def settings(self, **changes: object) -> dict[str, object]:
        values: dict[str, object] = {
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "learning_rate": 1e-3,
            "image_aspect_ratio": "square",
            "dtype": "float32",
            "gradient_checkpointing": False,
            "max_length": 256,
        }
        return values | changes

    def arguments(
        self,
        stage: str,
        out: Path,
        settings: dict[str, object],
        *more: str,
        data: Path | None = None,
    ) -> list[str]:
        default = self.captions if stage == "pretrain" else self.instructions
        return [
            *("--stage", stage, "--data", str(data or default), "--image-root", str(self.images)),
            *("--language-model", str(self.parts.language_model), "--clip", str(self.parts.clip)),
            *("--convnext", str(self.parts.convnext)),
            *("--image-size-aux", str(self.parts.image_size_aux)),
            *("--conversation", self.parts.conversation),
            *("--settings", json.dumps(settings), "--seed", "3"),
            *("--state-dir", str(out / "state"), "--out-dir", str(out / "result")),
            *("--perf", str(out / "perf.json"), *more),
        ]

    def run(self, stage: str, out: Path, settings: dict[str, object], *more: str) -> Path:
        """Run a stage in this process; return the folder of its results."""
        import train_stage

        arguments = self.arguments(stage, out, settings, *more)
        train_stage.main(train_stage.parser().parse_args(arguments))
        return out / "result"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("train_world"))


@pytest.fixture(scope="session")
def stage_1(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The projector of a small stage 1."""
    out = tmp_path_factory.mktemp("stage_1")
    return world.run("pretrain", out, world.settings()) / "mm_projector.safetensors"
