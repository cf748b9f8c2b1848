"""Pixels on their way to the model: those of the processor, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from recap.caption.pixels import ImageFile, pixel_batches
from recap.curate.pixels import Pixels
from recap.decoding import _fitting_workers
from recap.errors import RecapError
from recap.hashing import sha256_file


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("processor")
    BlipImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


def files_of(folder, count):
    rng = np.random.default_rng(3)
    found = []
    for index in range(count):
        shape = (20 + index, 50 - index) if index % 3 == 0 else (20 + index, 50 - index, 3)
        path = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
        found.append(ImageFile(str(index), path, sha256_file(path)))
    return found


def test_normalised_pixels_are_the_processor_s(tmp_path, processor):
    from transformers import AutoImageProcessor

    plain = AutoImageProcessor.from_pretrained(processor, backend="pil")
    ours = Pixels(processor)
    files = files_of(tmp_path, 7)
    [chunks] = pixel_batches(files, ours, batch_size=7, workers=0)
    values = ours.values(torch.cat(chunks))
    images = [Image.open(file.path).convert("RGB") for file in files]
    wanted = plain(images=images, return_tensors="pt")["pixel_values"]
    assert values.dtype == torch.float32
    assert torch.equal(values, wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_whatever_the_workers(tmp_path, processor, workers):
    ours = Pixels(processor)
    files = files_of(tmp_path, 3) * 30
    batches = list(pixel_batches(files, ours, batch_size=40, workers=workers))
    assert [sum(map(len, chunks)) for chunks in batches] == [40, 40, 10]
    flat = torch.cat([chunk for chunks in batches for chunk in chunks])
    first = [torch.tensor(ours.shrink(Image.open(f.path).convert("RGB"))) for f in files[:3]]
    assert torch.equal(flat, torch.stack(first * 30))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_before_a_broken_image_are_handed_over(tmp_path, processor, workers):
    files = files_of(tmp_path, 6)
    files[4].path.write_bytes(b"\x89PNG broken")
    files[4] = ImageFile("four", files[4].path, sha256_file(files[4].path))
    batches = pixel_batches(files, Pixels(processor), batch_size=2, workers=workers)
    assert len(next(batches)[0]) == 2
    assert len(next(batches)[0]) == 2
    with pytest.raises(RecapError, match=r"id 'four'.*cannot decode"):
        next(batches)


def test_a_file_that_changed_is_noticed(tmp_path, processor):
    [file] = files_of(tmp_path, 1)
    Image.new("RGB", (9, 9)).save(file.path)
    with pytest.raises(RecapError, match="changed while"):
        next(pixel_batches([file], Pixels(processor), batch_size=2, workers=0))


def test_no_files_no_batches(processor):
    assert list(pixel_batches([], Pixels(processor), batch_size=2, workers=4)) == []


def test_few_workers_where_shared_memory_is_small(monkeypatch, caplog):
    class Usage:
        free = 64 << 20

    monkeypatch.setattr("recap.decoding.shutil.disk_usage", lambda _: Usage)
    assert _fitting_workers(16, 32 * 150_528, 1000) == 2  # 64 MiB / (5 chunks of 4.8 MB)
    assert "room for 2" in caplog.text
    assert _fitting_workers(16, 32 * 150_528, 1) == 1


def test_a_folder_without_processor_is_refused(tmp_path):
    with pytest.raises(RecapError, match="no loadable image processor"):
        Pixels(tmp_path)
