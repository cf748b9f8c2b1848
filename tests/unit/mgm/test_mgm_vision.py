import mgm_oracles as oracle
import numpy as np
import pytest
import torch

from recap.errors import RecapError
from recap.mgm.convnext import ConvNextTower, concatenate_stages, resolve_size
from recap.mgm.openclip import load_convnext_state, read_convnext_size, save_openclip_convnext
from recap.mgm.vision import ClipTower

DEPTHS, DIMS = [2, 1, 1, 2], [8, 12, 16, 24]


def random_tower(seed=0):
    torch.manual_seed(seed)
    tower = ConvNextTower(DEPTHS, DIMS)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tower


def test_stages_are_upsampled_bilinearly_and_joined_in_order():
    torch.manual_seed(oracle.fresh_seed())
    widths = (8, 12, 300, 24)  # one is wider than a group of channels
    maps = [torch.randn(2, width, 16 >> i, 16 >> i) for i, width in enumerate(widths)]
    wanted = np.concatenate([oracle.bilinear(oracle.double(x), 16) for x in maps], axis=1)
    found = concatenate_stages(maps)
    assert found.shape == (2, sum(widths), 16, 16)
    oracle.close(found, wanted)
    assert torch.equal(found[:, :8], maps[0])


def test_upsampling_is_rounded_once_from_float32():
    maps = [torch.randn(1, 4, 8, 8).bfloat16(), torch.randn(1, 4, 4, 4).bfloat16()]
    wanted = torch.nn.functional.interpolate(maps[1].float(), size=(8, 8), mode="bilinear")
    assert torch.equal(concatenate_stages(maps)[:, 4:], wanted.bfloat16())


def to_transformers_name(name):
    """The same tensor's name in transformers' ConvNeXt, an independent implementation."""
    replaced = name.replace("vision_stem.0", "embeddings.patch_embeddings")
    replaced = replaced.replace("vision_stem.1", "embeddings.layernorm")
    replaced = replaced.replace("vision_stages", "encoder.stages").replace("blocks", "layers")
    replaced = replaced.replace("downsample.", "downsampling_layer.")
    replaced = replaced.replace("gamma", "layer_scale_parameter").replace("conv_dw", "dwconv")
    replaced = replaced.replace("mlp.fc", "pwconv")
    return replaced.replace(".norm.", ".layernorm.")


def test_stages_equal_those_of_transformers():
    from transformers import ConvNextConfig, ConvNextModel

    tower = random_tower().eval()
    model = ConvNextModel(ConvNextConfig(depths=DEPTHS, hidden_sizes=DIMS)).eval()
    state = {to_transformers_name(name): value for name, value in tower.state_dict().items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == []
    assert set(missing) == {"layernorm.weight", "layernorm.bias"}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x, wanted = model.embeddings(images), []
        for stage in model.encoder.stages:
            x = stage(x)
            wanted.append(x)
        found = tower(images)
    torch.testing.assert_close(found, concatenate_stages(wanted), rtol=1e-5, atol=1e-5)


def test_the_tower_is_the_float64_formula():
    tower = random_tower(oracle.fresh_seed()).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = tower(images)
    oracle.close(found, oracle.convnext_tower(tower, oracle.double(images)))


def test_openclip_folder_round_trip(tmp_path):
    tower = random_tower()
    save_openclip_convnext(tower, tmp_path)
    size = read_convnext_size(tmp_path)
    assert (size["depths"], size["dims"]) == (DEPTHS, DIMS)
    loaded = load_convnext_state(tmp_path)
    assert set(loaded) == set(tower.state_dict())
    assert all(torch.equal(loaded[name], value) for name, value in tower.state_dict().items())


def test_openclip_pickles_are_read_and_what_mgm_drops_is_dropped(tmp_path):
    tower = random_tower()
    save_openclip_convnext(tower, tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    state = {
        "visual.trunk." + name.removeprefix("vision_"): value
        for name, value in tower.state_dict().items()
    }
    dropped = ("visual.trunk.norm_pre.weight", "visual.trunk.head.norm.weight", "logit_scale")
    state |= dict.fromkeys(dropped, torch.zeros(3))
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    assert set(load_convnext_state(tmp_path)) == set(tower.state_dict())


def test_timm_sizes():
    size = resolve_size("convnext_large")
    assert (size["depths"], size["dims"]) == ([3, 3, 27, 3], [192, 384, 768, 1536])
    with pytest.raises(RecapError, match="unknown ConvNeXt"):
        resolve_size("convnext_colossal")


@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_clip_tower_is_the_hidden_state_without_cls(layer):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    model = CLIPVisionModel(config).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model(images, output_hidden_states=True).hidden_states[layer][:, 1:]
        found = ClipTower(model, layer)(images)
    assert found.shape == (2, 16, 32)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("layer", "steps"), [(-2, 4), (-1, 5), (0, 0)])
def test_clip_tower_is_the_float64_formula(layer, steps):
    """Layer -2 of five is the output of the fourth; index 0 is the embedding's."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(oracle.fresh_seed())
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    model = CLIPVisionModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1) / 2, std=0.2)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = ClipTower(model, layer)(images)
    oracle.close(found, oracle.clip_tower(model, oracle.double(images), steps))


def test_a_layer_that_is_not_there_is_refused():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    with pytest.raises(RecapError, match="mm_vision_select_layer -4 does not exist"):
        ClipTower(CLIPVisionModel(config), -4)(torch.zeros(1, 3, 32, 32))
