import mgm_oracles as oracle
import numpy as np
import pytest
import torch
from PIL import Image

from recap.errors import RecapError
from recap.io import read_json, write_json
from recap.mgm.processing import CLIP_MEAN, CLIP_STD, ImagePreprocessor, pad_to_square
from recap.mgm.vision import derive_clip_view

SIZE = 96


def picture(width, height, seed=0):
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def normalize(pixels):
    """Float64 arithmetic of the spec, on (H, W, 3) bytes."""
    return ((pixels / 255.0 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)).transpose(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(200, 130), (97, 331), (96, 96), (50, 40), (1, 3)])
def test_square_resizes_the_shorter_edge_and_crops_the_centre(width, height):
    image = picture(width, height)
    short = min(width, height)
    shape = (int(SIZE * width / short), int(SIZE * height / short))
    pixels = np.asarray(image.resize(shape, Image.Resampling.BICUBIC)).astype(np.float64)
    top, left = (shape[1] - SIZE) // 2, (shape[0] - SIZE) // 2
    wanted = normalize(pixels[top : top + SIZE, left : left + SIZE])
    found = ImagePreprocessor(SIZE)(image, "square")
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(200, 131), (64, 90), (70, 70)])
def test_pad_keeps_the_whole_picture_on_the_mean_colour(width, height):
    image = picture(width, height, seed=1)
    edge = max(width, height)
    canvas = np.empty((edge, edge, 3), dtype=np.uint8)
    canvas[:] = (122, 116, 104)
    top, left = (edge - height) // 2, (edge - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(image)
    np.testing.assert_array_equal(np.asarray(pad_to_square(image, CLIP_MEAN)), canvas)
    resized = Image.fromarray(canvas).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    wanted = normalize(np.asarray(resized).astype(np.float64))
    found = ImagePreprocessor(SIZE)(image, "pad").numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_agrees_with_the_clip_processor_bit_for_bit():
    module = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    size = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    processor = module.CLIPImageProcessorPil(**size)
    for width, height in ((200, 130), (97, 331), (96, 96), (333, 100)):
        image = picture(width, height, seed=2)
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
        ours = ImagePreprocessor(SIZE)(image, "square").numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2.5e-7)


def test_other_modes_become_rgb():
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert ImagePreprocessor(SIZE)(picture(30, 20).convert(mode)).shape == (3, SIZE, SIZE)


@pytest.mark.parametrize(("edge", "size"), [(768, 336), (128, 56), (128, 64)])
def test_the_clip_view_is_half_pixel_bilinear_without_antialiasing(edge, size):
    """336 pixels are taken from the normalised 768, not from the file."""
    images = torch.randn(2, 3, edge, edge)
    found = derive_clip_view(images, size)
    oracle.close(found, oracle.bilinear(oracle.double(images), size))
    assert derive_clip_view(images.bfloat16(), size).dtype == torch.float32


def test_elongated_pictures_are_refused_before_memory_is_spent():
    with pytest.raises(RecapError, match="too elongated"):
        ImagePreprocessor(768)(Image.new("RGB", (60_000, 2)), "square")
    with pytest.raises(RecapError, match="too elongated"):
        ImagePreprocessor(768)(Image.new("RGB", (60_000, 2)), "pad")


def test_unknown_aspect_is_refused():
    with pytest.raises(RecapError, match="aspect"):
        ImagePreprocessor(SIZE)(picture(8, 8), "stretch")  # type: ignore[arg-type]


def test_settings_come_from_the_clip_folder_and_both_folders_must_agree(mgm_parts, tmp_path):
    from dataclasses import replace

    found = ImagePreprocessor.from_parts(mgm_parts)
    assert (found.image_size_aux, found.mean, found.std) == (128, CLIP_MEAN, CLIP_STD)
    config = read_json(mgm_parts.convnext / "open_clip_config.json")
    config["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    write_json(tmp_path / "open_clip_config.json", config)
    with pytest.raises(RecapError, match="must agree"):
        ImagePreprocessor.from_parts(replace(mgm_parts, convnext=tmp_path))
