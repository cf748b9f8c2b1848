"""Both stages on language models other than Gemma, which have no padding token."""

import pytest
from safetensors.torch import load_file

import train_stage
from recap.io import read_json


@pytest.mark.parametrize("family", ["vicuna_v1", "mistral_instruct", "llama_3"])
def test_both_stages_train_each_family(world, family, tmp_path):
    own = type(world)(tmp_path, samples=16, conversation=family)

    def run(stage, *more, **changes):
        settings = own.settings(max_length=512, **changes)
        arguments = own.arguments(stage, tmp_path / stage, settings, *more)
        train_stage.main(train_stage.parser().parse_args(arguments))
        return tmp_path / stage / "result"

    first = run("pretrain")
    projector = next(p for p in first.iterdir() if p.name.startswith("mm_projector"))
    second = run(
        "finetune",
        *("--projector", str(projector)),
        image_aspect_ratio="pad",
        learning_rate=2e-3,
        lora={"rank": 4, "alpha": 8, "dropout": 0.0},
    )
    assert len(load_file(second / "adapter_model.safetensors")) == 28
    gates = read_json(second / "gates.json")
    assert all(gate["passed"] for gate in gates["gates"])
