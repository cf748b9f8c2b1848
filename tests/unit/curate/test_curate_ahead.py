"""Images prepared ahead of a model: order, errors, pixels, and batches that do not fit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from curate_models import build_classifier
from PIL import Image

from recap.curate.ahead import Source, decode, prepared
from recap.curate.image_models import Classifier, score_images
from recap.curate.pixels import Pixels
from recap.errors import RecapError

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture
def sources(tmp_path):
    found = []
    for n in range(41):
        Image.new("RGB", (20 + n, 10), (n, 0, 0)).save(tmp_path / f"{n}.png")
        found.append(Source(tmp_path / f"{n}.png", f"id{n}"))
    return found


@pytest.mark.parametrize("processes", [False, True])
def test_results_come_in_order_and_errors_name_the_record(sources, processes):
    found = list(prepared(sources, lambda image: image.size[0], processes=processes))
    assert found == list(range(20, 61))
    assert list(prepared([], lambda image: 1, processes=processes)) == []
    sources[30].path.write_bytes(b"no image")
    taken = []
    with pytest.raises(RecapError, match="id 'id30': cannot decode"):
        taken.extend(prepared(sources, lambda image: image.size[0], processes=processes))


@pytest.mark.parametrize("processes", [False, True])
def test_workers_stay_only_a_little_ahead(sources, processes, tmp_path):
    """What waits for the model is bounded, however slow the model is."""
    many = sources * 40

    def note(image):
        (tmp_path / f"done{os.getpid()}_{time.monotonic_ns()}").touch()
        return image.size

    stream = prepared(many, note, processes=processes)
    next(stream)
    time.sleep(1)
    stream.close()
    assert 8 <= len(list(tmp_path.glob("done*"))) <= 16 * 4 * 8 < len(many)


def test_workers_end_with_a_killed_parent(sources):
    code = (
        "import sys, time; from pathlib import Path; from recap.curate.ahead import *\n"
        "stream = prepared([Source(Path(p), 'x') for p in sys.argv[1:]], "
        "lambda image: __import__('os').getpid(), processes=True)\n"
        "print(next(stream), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, *(str(source.path) for source in sources)]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SCRIPTS)}
    )
    worker = int(parent.stdout.readline())
    assert worker != parent.pid and Path(f"/proc/{worker}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        if ") Z " in Path(f"/proc/{worker}/stat").read_text():
            break
        time.sleep(0.2)
    else:
        assert not Path(f"/proc/{worker}").exists(), "the worker outlived its parent"


def test_a_truncated_image_is_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    with pytest.raises(RecapError, match="id 'x': cannot decode"):
        decode(Source(tmp_path / "a.jpg", "x"))


def processors():
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    side = {"height": 56, "width": 48}
    return {
        "vit": ViTImageProcessorPil(size=side, image_mean=[0.4, 0.5, 0.6], image_std=[0.2] * 3),
        "clip": CLIPImageProcessorPil(size={"shortest_edge": 60}, crop_size=side),
        "blip": BlipImageProcessorPil(size=side),
        "unnormalised": ViTImageProcessorPil(size=side, do_normalize=False),
        # These three cannot be halved and run whole.
        "padding crop": CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=side),
        "no rescaling": ViTImageProcessorPil(size=side, do_rescale=False),
        "other factor": ViTImageProcessorPil(size=side, rescale_factor=1 / 127.5),
    }


@pytest.mark.parametrize("name", list(processors()))
def test_pixels_equal_the_processors_bit_for_bit(name, tmp_path):
    processor = processors()[name]
    processor.save_pretrained(tmp_path)
    pixels = Pixels(tmp_path)
    rng = np.random.default_rng(5)
    images = []
    for _ in range(40):
        shape = (*rng.integers(5, 400, 2), 3)
        images.append(Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)))
    shrunk = [pixels.shrink(image) for image in images]
    whole = name in ("padding crop", "no rescaling")
    assert all((array.dtype != np.uint8) == whole for array in shrunk)
    found = pixels.finish(shrunk, torch.device("cpu"))
    for image, ours in zip(images, found, strict=True):
        theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(ours, theirs)


def test_images_that_keep_their_size_cannot_share_a_batch(tmp_path):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    ViTImageProcessorPil(do_resize=False).save_pretrained(tmp_path)
    with pytest.raises(RecapError, match="cannot share a batch"):
        Pixels(tmp_path)


class Narrow:
    """A scorer that fits at most ``room`` images at a time; its number is the image's width."""

    def __init__(self, room):
        self.device, self.room, self.sizes = torch.device("cpu"), room, []

    def prepare(self, image):
        return image.size[0]

    def score(self, images, texts):
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return [
            [float(width), *map(float, text)] for width, text in zip(images, texts, strict=True)
        ]


def test_a_batch_that_does_not_fit_is_halved_and_stays_so(sources):
    scorer, wide = Narrow(5), Narrow(99)
    texts = [[str(n)] for n in range(41)]
    found, other = score_images(sources, [scorer, wide], [texts, [[]] * 41], batch_size=16)
    assert found == [[20.0 + n, float(n)] for n in range(41)]
    assert other == [[20.0 + n] for n in range(41)]
    assert scorer.sizes[:3] == [16, 8, 4]
    assert max(scorer.sizes[7:]) == 4, "later batches have the size that fitted"
    with pytest.raises(RecapError, match="single image does not fit"):
        score_images(sources, [Narrow(0)], [texts], batch_size=4)


def test_a_models_missing_tensors_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = build_classifier(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("classifier.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecapError, match=r"lacks 1 tensors, for instance classifier\.weight"):
        Classifier(folder, device="cpu")
