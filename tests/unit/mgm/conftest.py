"""Tiny model folders, written once a session."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Micro models are slower on many threads, and sums depend on how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mgm_parts(tmp_path_factory):
    """Two decoder layers, 64-pixel CLIP, 128-pixel ConvNeXt."""
    from recap.mgm.micro import write_micro_parts

    return write_micro_parts(tmp_path_factory.mktemp("parts"), seed=1, layers=2)


@pytest.fixture(scope="session")
def mgm_tokenizer(mgm_parts):
    """The tokenizer of the micro language model."""
    from recap.mgm.checkpoint import load_tokenizer

    return load_tokenizer(mgm_parts.language_model)


@pytest.fixture
def mgm_model(mgm_parts):
    """A fresh float32 model."""
    from recap.mgm.checkpoint import build_model

    return build_model(mgm_parts, dtype="float32", seed=7)


@pytest.fixture(scope="session")
def mgm_adapter(mgm_parts, tmp_path_factory):
    """An adapter whose B is not zero, saved with its projector and base."""
    import torch

    from recap.mgm.checkpoint import build_model, describe_base, save_adapter
    from recap.mgm.lora import add_lora
    from recap.train_settings import LoraSettings

    model = build_model(mgm_parts, dtype="float32", seed=3, image_aspect_ratio="pad")
    add_lora(model, LoraSettings(), seed=4)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("adapter") / "finetune"
    save_adapter(model, folder, base=describe_base(mgm_parts))
    return folder


@pytest.fixture(scope="session")
def mgm_questions(tmp_path_factory) -> Path:
    """A question file beside a folder ``images``."""
    root = tmp_path_factory.mktemp("questions")
    (root / "images").mkdir()
    random = np.random.default_rng(0)
    rows = []
    for index, height in enumerate((60, 150, 128)):
        pixels = random.integers(0, 255, (height, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
        row = {"question_id": index, "image": f"{index}.png", "text": f"what is {index}?"}
        rows.append(json.dumps(row))
    (root / "questions.jsonl").write_text("\n".join(rows) + "\n")
    return root / "questions.jsonl"
