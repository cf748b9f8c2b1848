"""What ``evaluate.py`` asks, and the ways of answering that it compares."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from train_parts import plain_features

from recap.evaluate.benchmarks.base import Question
from recap.evaluate.images import ImageSource
from recap.evaluate.loading import LoadedModel
from recap.evaluate.model import MgmAnswerer
from recap.evaluate.ordering import asking_order
from recap.evaluate.pictures import PictureProcesses, by_threads
from recap.evaluate.protocol import BenchmarkProtocol
from recap.evaluate.runner import Runner
from recap.mgm.answering import pad_left
from recap.mgm.checkpoint import build_model, load_tokenizer
from recap.mgm.compilation import compile_towers
from recap.mgm.conversation import encode_prompt
from recap.mgm.generation import greedy_decode
from recap.mgm.parts import ModelParts
from recap.mgm.processing import ImagePreprocessor
from recap.settings import EvaluateSettings

PROTOCOL = BenchmarkProtocol(kind="textvqa", ocr=True, max_new_tokens=6)
WORDS = ("red", "green", "blue", "a", "dog", "cat", "on", "the", "mat", "of", "and", "sign")
SHARED = 1834 / 3166  # share of TextVQA's pictures that have a second question


def parts_of(folder: Path, scale: str) -> ModelParts:
    """Return a model's parts, written by another process: this one must not use the GPU yet."""
    if not (folder / "gemma" / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        script = str(Path(__file__).with_name("mgm_lifecycle_parts.py"))
        command = [sys.executable, script, "parts", "--folder", str(folder), "--scale", scale]
        subprocess.run(command, check=True)
    size = {"full": 768, "small": 128}[scale]
    return ModelParts(folder / "gemma", folder / "clip", folder / "convnext", image_size_aux=size)


def load(parts: ModelParts, dtype: str) -> LoadedModel:
    """Return a model with random weights, whose answers depend on what is asked.

    Drawn weights attend to everything alike, and a tied head then repeats the last token; so
    queries and what attention adds are made larger.
    """
    model = build_model(parts, dtype=dtype, seed=1, image_aspect_ratio="pad")
    with torch.no_grad():
        for layer in model.language_model.model.layers:
            layer.self_attn.q_proj.weight *= 16
            layer.self_attn.o_proj.weight *= 256
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return LoadedModel(model.to(device).eval(), load_tokenizer(parts.language_model))


def draw_questions(folder: Path, count: int) -> list[Question]:
    """Draw pictures of TextVQA's size and questions with its lengths and its sharing.

    A question has about 20 tokens with its instruction, and OCR tokens with the median (8)
    and mean (13) of the validation split, three tokens each.
    """
    draw, noise = random.Random(1), np.random.default_rng(0)
    (folder / "questions").mkdir(parents=True, exist_ok=True)
    found: list[Question] = []
    writing = []
    with ThreadPoolExecutor() as pool:
        while len(found) < count:
            name = f"{len(found):06d}.jpg"
            pixels = noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            path = folder / "questions" / name
            writing.append(pool.submit(_write_picture, path, pixels))
            for _ in range(1 + (draw.random() < SHARED)):
                words = 30 + 3 * min(95, round(draw.lognormvariate(2.08, 1.0)))
                text = " ".join(draw.choice(WORDS) for _ in range(words))
                found.append(Question(str(len(found)), text, text, name, len(found)))
    for written in writing:
        written.result()
    return found[:count]


def _write_picture(path: Path, pixels: Any) -> None:
    if not path.is_file():
        Image.fromarray(pixels).resize((1024, 768)).save(path, quality=90)


class Journal:
    """Keeps answers in memory."""

    def __init__(self) -> None:
        self.texts: dict[tuple[str, str], str] = {}

    def append(self, answers: dict[tuple[str, str], str]) -> None:
        """Keep a batch's answers."""
        self.texts |= answers


class Asked:
    """A model, questions, and the answers of each way of asking."""

    def __init__(self, parts: ModelParts, folder: Path, dtype: str, count: int) -> None:
        """Draw questions and load the model."""
        self.questions = draw_questions(folder, count)
        self.ordered = asking_order(self.questions)
        self.images = ImageSource(folder / "questions", {})
        self.preprocess = ImagePreprocessor.from_parts(parts)
        self.processes = PictureProcesses(self.ordered, self.pixels, repeated=True)
        if torch.cuda.device_count():
            self.processes.pictures()  # forked before the GPU is used
        self.loaded = load(parts, dtype)

    def pixels(self, question: Question) -> torch.Tensor:
        """Return the pixels of a question's picture."""
        return self.preprocess.pixels(self.images.open(question), "pad")

    def ours(self, answerer: MgmAnswerer, size: int, count: int, compiled: bool) -> list[str]:
        """Answer by the product's runner, from files."""
        compile_towers(self.loaded.model, compiled)
        journal: Any = Journal()
        some = self.questions[:count]
        whole = count == len(self.questions) and torch.cuda.device_count()
        ordered = self.ordered if whole else asking_order(some)
        pictures = self.processes.pictures() if whole else by_threads(ordered, self.pixels)
        Runner(answerer, pictures, [journal], size).run(ordered)
        return [journal.texts[question.key] for question in some]

    def answerer(self, dtype: Any, compiled: bool) -> MgmAnswerer:
        """Return the product's answerer."""
        settings = EvaluateSettings(dtype=dtype, compile_blocks=compiled)
        made = MgmAnswerer(self.loaded, PROTOCOL, settings)
        made.expect(len(self.questions))
        return made

    def plain(self, size: int, count: int, workers: int) -> list[str]:
        """Answer with prompts padded in front and each question's picture encoded anew.

        With one question at a time this is upstream's way: logits of all positions in float32.
        """
        compile_towers(self.loaded.model, False)
        texts: list[str] = []
        for ids, images in self._batches(size, count, workers):
            texts += [self._decode(row) for row in self._generate(ids, images, size == 1)]
        return texts

    def _batches(
        self, size: int, count: int, workers: int
    ) -> Iterator[tuple[list[list[int]], torch.Tensor]]:
        dataset = _Prompts(self, self.questions[:count])
        yield from DataLoader(dataset, batch_size=size, num_workers=workers, collate_fn=_collate)

    @torch.inference_mode()
    def _generate(
        self, ids: list[list[int]], images: torch.Tensor, all_logits: bool
    ) -> list[list[int]]:
        model = self.loaded.model
        input_ids, mask = (tensor.to(model.device) for tensor in pad_left(ids))
        features = plain_features(model, images.to(model.device))
        batch = model.prepare_inputs(input_ids, mask, image_features=features, padding_side="left")
        if all_logits:
            return _generate_with_all_logits(model.language_model, batch)
        return greedy_decode(model.language_model, batch, PROTOCOL.max_new_tokens, (1,))

    def _decode(self, tokens: list[int]) -> str:
        text: str = self.loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()


class _Prompts(Dataset):
    def __init__(self, asked: Asked, questions: Sequence[Question]) -> None:
        self._asked, self._questions = asked, questions

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> tuple[list[int], torch.Tensor]:
        question, loaded = self._questions[index], self._asked.loaded
        ids = encode_prompt("<image>\n" + question.model_text, loaded.tokenizer, template="gemma")
        return ids, self._asked.pixels(question)


def _collate(
    rows: list[tuple[list[int], torch.Tensor]],
) -> tuple[list[list[int]], torch.Tensor]:
    return [ids for ids, _ in rows], torch.stack([pixels for _, pixels in rows])


def _generate_with_all_logits(language_model: Any, batch: Any) -> list[list[int]]:
    """Decode one row as transformers 4.36 did: float32 logits of every position it reads."""
    found: list[int] = []
    inputs: dict[str, Any] = {"inputs_embeds": batch.embeddings}
    cache = None
    for _ in range(PROTOCOL.max_new_tokens):
        output = language_model(**inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = output.logits.float()[:, -1].argmax(-1)
        found.append(int(token))
        if found[-1] == 1:
            break
        inputs = {"input_ids": token[:, None]}
    return [found]


def timed(call: Any, count: int) -> tuple[float, list[str]]:
    """Return questions a second and the answers."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    answers = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start), answers
