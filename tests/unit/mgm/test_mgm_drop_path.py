"""Stochastic depth of the frozen auxiliary tower: off, unless training asks for it."""

import numpy as np
import pytest
import torch

from recap.mgm.convnext import Block, ConvNextTower, resolve_size
from recap.train.setup import build_stage_model
from recap.train_settings import FinetuneSettings, StageSettings

SAMPLES = 4000
STAGE = {
    "global_batch_size": 1,
    "learning_rate": 1e-3,
    "image_aspect_ratio": "pad",
    "dtype": "float32",
    "gradient_checkpointing": False,
}


def rates(tower):
    return [block.drop_path for stage in tower.vision_stages for block in stage.blocks]


def random_tower(drop_path=0.0, depths=(1, 2, 1, 2)):
    torch.manual_seed(0)
    tower = ConvNextTower(list(depths), [8, 12, 16, 24], drop_path)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tower


def test_rates_grow_linearly_over_all_blocks_of_the_full_size_tower():
    """As timm's: linspace(0, rate, 36), the first block never dropped, the last at the rate."""
    with torch.device("meta"):
        tower = ConvNextTower(*(resolve_size("convnext_large")[k] for k in ("depths", "dims")), 0.1)
    wanted = [0.1 * block / 35 for block in range(36)]
    np.testing.assert_allclose(rates(tower), wanted, rtol=1e-12)
    by_stage = [[block.drop_path for block in stage.blocks] for stage in tower.vision_stages]
    assert [len(stage) for stage in by_stage] == [3, 3, 27, 3]


def test_rates_equal_those_of_transformers():
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(depths=[1, 2, 1, 2], hidden_sizes=[8, 12, 16, 24], drop_path_rate=0.3)
    theirs = [
        float(getattr(layer.drop_path, "drop_prob", 0.0) or 0.0)
        for stage in ConvNextModel(config).encoder.stages
        for layer in stage.layers
    ]
    np.testing.assert_allclose(rates(random_tower(0.3)), theirs, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_a_block_drops_whole_samples_and_keeps_the_mean(rate):
    """Each sample's branch is absent, or there and divided by the chance to be kept."""
    torch.manual_seed(1)
    block = Block(4, rate)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 4, 3, 3).expand(SAMPLES, 4, 3, 3)
    with torch.no_grad():
        branch = block.eval()(x[:1]) - x[:1]
        added = block.train()(x) - x
    kept = added.abs().amax((1, 2, 3)) > 0
    torch.testing.assert_close(added[kept], (branch / (1 - rate)).expand_as(added[kept]))
    spread = 5 * np.sqrt(rate * (1 - rate) / SAMPLES)
    assert abs(kept.double().mean().item() - (1 - rate)) < spread
    bound = spread * branch.abs().max().item() / (1 - rate) + 1e-5
    torch.testing.assert_close(added.mean(0), branch[0], rtol=0, atol=bound)


def test_a_tower_drops_in_training_mode_alone_and_by_the_seed():
    images = torch.randn(4, 3, 64, 64)
    plain, dropping = random_tower().train(), random_tower(0.9).train()

    def run(seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            return dropping(images)

    with torch.no_grad():
        assert torch.equal(plain(images), plain.eval()(images))
        assert torch.equal(run(1), run(1))
        assert not torch.equal(run(1), run(2))
        dropping.eval()
        assert torch.equal(run(1), plain(images))


def test_settings_leave_it_off_and_refuse_what_is_no_rate():
    from pydantic import ValidationError

    assert StageSettings(**STAGE).drop_path == FinetuneSettings(**STAGE).drop_path == 0
    for rate in (-0.1, 1.0, "often"):
        with pytest.raises(ValidationError, match="drop_path"):
            StageSettings(**STAGE, drop_path=rate)


@pytest.mark.parametrize("kind", [StageSettings, FinetuneSettings])
def test_a_stage_follows_its_setting(mgm_parts, kind):
    """With upstream's 0.1 the frozen tower trains along: new masks each pass, none at the end."""
    images = torch.randn(8, 3, 128, 128)
    ids = torch.tensor([[2, -200, 5]] * 8)

    def prepared(rate):
        model = build_stage_model(mgm_parts, kind(**STAGE, drop_path=rate), seed=1, projector=None)
        assert not any(p.requires_grad for p in model.vision_tower_aux.parameters())
        return model.train()

    def features(model, seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            return model.encode_images(images)

    plain, dropping = prepared(0.0), prepared(0.5)
    np.testing.assert_allclose(rates(dropping.vision_tower_aux), [0, 1 / 6, 1 / 3, 1 / 2])
    assert dropping.vision_tower_aux.training
    assert not plain.vision_tower_aux.training
    assert not dropping.vision_tower.training
    assert torch.equal(features(plain, 1), features(plain, 2))
    assert torch.equal(features(dropping, 1), features(dropping, 1))
    assert not torch.equal(features(dropping, 1), features(dropping, 2))
    labels = torch.tensor([[-100, -100, 5]] * 8)
    dropping(ids, torch.ones_like(ids), labels, images).loss.backward()
    assert torch.isfinite(dropping.mm_projector[0].weight.grad).all()
    assert torch.equal(features(dropping.eval(), 3), features(plain, 3))


def test_what_was_trained_with_it_says_so_and_answers_without(mgm_parts, tmp_path):
    from recap.io import read_json
    from recap.mgm.checkpoint import describe_base, load_checkpoint, save_adapter
    from recap.mgm.merge import merge_lora_weights
    from recap.settings import MergeSettings

    settings = FinetuneSettings(**STAGE, drop_path=0.1)
    model = build_stage_model(mgm_parts, settings, seed=1, projector=None)
    save_adapter(model, tmp_path / "adapter", base=describe_base(mgm_parts))
    assert read_json(tmp_path / "adapter" / "config.json")["recap"]["drop_path"] == 0.1
    merge_lora_weights(tmp_path / "adapter", mgm_parts, tmp_path / "merged", MergeSettings())
    merged, _ = load_checkpoint(tmp_path / "merged", dtype="float32")
    assert rates(merged.train().vision_tower_aux) == [0, 0, 0, 0]
    assert not merged.vision_tower_aux.training
