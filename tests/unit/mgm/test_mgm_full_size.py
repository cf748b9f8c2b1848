"""Names, shapes and counts of MGM-2B, without any weights."""

import pytest
import torch


@pytest.fixture(scope="module")
def config():
    from transformers import CLIPVisionConfig, GemmaConfig

    from recap.mgm.configuration import MGMConfig
    from recap.mgm.convnext import resolve_size
    from recap.mgm.processing import ImagePreprocessor

    text = GemmaConfig(
        vocab_size=256000, hidden_size=2048, intermediate_size=16384, num_hidden_layers=18,
        num_attention_heads=8, num_key_value_heads=1, head_dim=256, hidden_act="gelu",
        rms_norm_eps=1e-6,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14, projection_dim=768,
    )  # fmt: skip
    return MGMConfig(
        text_config=text,
        vision_config=vision,
        convnext=resolve_size("convnext_large"),
        preprocessor=ImagePreprocessor(768).as_settings(),
    )


@pytest.fixture(scope="module")
def shapes(config):
    from recap.mgm.names import expected_shapes

    return expected_shapes(config)


def elements(shapes, prefix=""):
    return sum(
        torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith(prefix)
    )


def test_tensors_and_parameters(shapes):
    assert len(shapes) == 911
    assert elements(shapes) == 3_019_166_144
    clip = "model.vision_tower.vision_tower.vision_model."
    aux = "model.vision_tower_aux."
    assert (elements(shapes, clip), sum(n.startswith(clip) for n in shapes)) == (303_507_456, 391)
    assert (elements(shapes, aux), sum(n.startswith(aux) for n in shapes)) == (196_227_264, 340)
    assert elements(shapes, "model.mm_projector.") == 6_295_552
    assert elements(shapes, "model.vlm_uni_") == 6_963_456
    assert "lm_head.weight" not in shapes


def layer_table():
    table = {
        "self_attn.q_proj": (2048, 2048),
        "self_attn.k_proj": (256, 2048),
        "self_attn.v_proj": (256, 2048),
        "self_attn.o_proj": (2048, 2048),
        "mlp.gate_proj": (16384, 2048),
        "mlp.up_proj": (16384, 2048),
        "mlp.down_proj": (2048, 16384),
        "input_layernorm": (2048,),
        "post_attention_layernorm": (2048,),
    }
    return {f"model.layers.{n}.{k}.weight": v for n in range(18) for k, v in table.items()}


def clip_table():
    top = "model.vision_tower.vision_tower.vision_model."
    table = {
        "embeddings.class_embedding": (1024,),
        "embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "embeddings.position_embedding.weight": (577, 1024),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        table |= {f"{norm}.{kind}": (1024,) for kind in ("weight", "bias")}
    for n in range(24):
        layer = f"encoder.layers.{n}."
        for part in ("k", "v", "q", "out"):
            table[f"{layer}self_attn.{part}_proj.weight"] = (1024, 1024)
            table[f"{layer}self_attn.{part}_proj.bias"] = (1024,)
        for part, out, into in (("fc1", 4096, 1024), ("fc2", 1024, 4096)):
            table[f"{layer}mlp.{part}.weight"] = (out, into)
            table[f"{layer}mlp.{part}.bias"] = (out,)
        for part in ("layer_norm1", "layer_norm2"):
            table |= {f"{layer}{part}.{kind}": (1024,) for kind in ("weight", "bias")}
    return {top + name: shape for name, shape in table.items()}


def convnext_table():
    top, table = "model.vision_tower_aux.", {}
    table["vision_stem.0.weight"], table["vision_stem.0.bias"] = (192, 3, 4, 4), (192,)
    table["vision_stem.1.weight"], table["vision_stem.1.bias"] = (192,), (192,)
    before = 192
    for stage, (depth, c) in enumerate(((3, 192), (3, 384), (27, 768), (3, 1536))):
        start = f"vision_stages.{stage}."
        if stage:
            table[f"{start}downsample.0.weight"] = (before,)
            table[f"{start}downsample.0.bias"] = (before,)
            table[f"{start}downsample.1.weight"] = (c, before, 2, 2)
            table[f"{start}downsample.1.bias"] = (c,)
        for block in range(depth):
            name = f"{start}blocks.{block}."
            table[f"{name}gamma"] = (c,)
            table[f"{name}conv_dw.weight"], table[f"{name}conv_dw.bias"] = (c, 1, 7, 7), (c,)
            table[f"{name}norm.weight"], table[f"{name}norm.bias"] = (c,), (c,)
            table[f"{name}mlp.fc1.weight"], table[f"{name}mlp.fc1.bias"] = (4 * c, c), (4 * c,)
            table[f"{name}mlp.fc2.weight"], table[f"{name}mlp.fc2.bias"] = (c, 4 * c), (c,)
        before = c
    return {top + name: shape for name, shape in table.items()}


def projector_table():
    table = {"mm_projector.0": (2048, 1024), "mm_projector.2": (2048, 2048)}
    table |= {"vlm_uni_query_projector.1": (1024, 1024)}
    table |= {f"vlm_uni_{k}_projector.1": (1024, 2880) for k in ("aux", "val")}
    shapes = {}
    for name, (out, into) in table.items():
        shapes |= {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
        if name.startswith("vlm"):
            norm = name.replace(".1", ".0")
            shapes |= {f"{norm}.weight": (into,), f"{norm}.bias": (into,)}
    return {f"model.{name}": shape for name, shape in shapes.items()}


def test_every_name_and_shape_is_upstream_s(shapes):
    wanted = layer_table() | clip_table() | convnext_table() | projector_table()
    wanted |= {"model.embed_tokens.weight": (256000, 2048), "model.norm.weight": (2048,)}
    assert shapes == wanted


def test_stage_1_s_big_file_has_747_tensors(shapes):
    """What upstream writes: every name that holds one of its words, towers included."""
    from recap.mgm.names import is_tower_name, projector_names, projector_suffix

    words = ("mm_projector", "vision_resampler", "vlm_uni", "vision_tower", "vision_fpn",
             "vision_stages")  # fmt: skip
    big = {name for name in shapes if any(word in name for word in words)}
    assert len(big) == 747
    towers = {name for name in big if is_tower_name(name)}
    bare = {projector_suffix(name) for name in big - towers}
    assert (len(towers), bare) == (391 + 340, set(projector_names()))
    assert 2 * elements({name: shapes[name] for name in big}) == pytest.approx(1.03e9, rel=0.01)


def test_adapter_of_rank_16(shapes):
    from recap.mgm.lora import expected_adapter_shapes
    from recap.train_settings import LoraSettings

    adapter = expected_adapter_shapes(shapes, LoraSettings())
    assert len(adapter) == 252
    assert elements(adapter) == 19_611_648
    assert elements(adapter) + elements(projector_table()) == 32_870_656
    top = "base_model.model.model.layers.17."
    assert adapter[f"{top}self_attn.k_proj.lora_A.weight"] == (16, 2048)
    assert adapter[f"{top}self_attn.k_proj.lora_B.weight"] == (256, 16)
    assert adapter[f"{top}mlp.down_proj.lora_A.weight"] == (16, 16384)


def test_config_json_has_upstream_s_keys(config):
    from recap.mgm.configuration import config_to_disk

    disk = config_to_disk(config, "bfloat16")
    wanted = {
        "vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384,
        "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1,
        "head_dim": 256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False,
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
        "model_type": "mgm_gemma", "mm_hidden_size": 1024, "mm_hidden_size_aux": 2880,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "mm_use_im_start_end": False, "use_mm_proj": True,
        "image_size_aux": 768, "image_grid": 1, "image_global": False,
        "tokenizer_padding_side": "right", "tokenizer_model_max_length": 2048,
        "hidden_act": "gelu_pytorch_tanh", "torch_dtype": "bfloat16", "use_cache": True,
    }  # fmt: skip
    assert {name: disk.get(name, "absent") for name in wanted} == wanted
    assert disk["architectures"] == ["MGMGemmaForCausalLM"]
