"""Which held-out sets there are, and where they lie."""

from pathlib import Path

from test_config_experiments import raw_config

from recap.config import load_experiment
from recap.config.held_out import HeldOutWiring
from recap.config.wiring import Wiring


def test_held_out_sets_are_the_same_for_every_arm_and_off_by_default():
    smoke = HeldOutWiring(Wiring(load_experiment(raw_config("smoke"))))
    kept = "results/smoke/arms/blip2_enhanced/kept/"
    assert all(path.startswith(kept) for path in smoke.population())
    assert list(smoke.sets("pretrain")) == ["original", "blip2-micro"]
    assert list(smoke.sets("finetune")) == ["instructions"]
    assert smoke.instructions() == "results/smoke/held_out/train/instructions.json"
    assert smoke.captions("original") == []
    assert all("/recipes/basic/kept/" in path for path in smoke.records())
    assert all("/captions/blip2-micro/" in path for path in smoke.captions("blip2-micro"))
    raw = raw_config("smoke")
    raw["held_out"] |= {"records": 0, "instructions": 0}
    off = HeldOutWiring(Wiring(load_experiment(raw)))
    assert (off.ids(), off.flags("pretrain"), off.flags("finetune")) == ([], "", "")
    assert off.instructions() == "resources/worlds/smoke/sft.json"


def test_held_out_captions_are_those_of_the_captioners_that_arms_use(tmp_path):
    """The experiment's own captioner makes none where every arm has another."""
    raw = raw_config("smoke")
    lines = Path("config/arms.tsv").read_text().splitlines(keepends=True)
    cells = [line.split("\t") for line in lines]
    for row in cells:
        if row[0] == "blip2_enhanced":
            row[4] = "blip2-opt-6.7b"
    sheet = tmp_path / "arms.tsv"
    sheet.write_text("".join("\t".join(row) for row in cells))
    raw["sheets"]["arms"] = str(sheet)
    one = HeldOutWiring(Wiring(load_experiment(raw)))
    assert one.styles() == ["original", "blip2-opt-6.7b"]
    raw["arms"] = [*raw["arms"], "mixed"]
    both = HeldOutWiring(Wiring(load_experiment(raw)))
    assert both.styles() == ["original", "blip2-opt-6.7b", "blip2-micro"]
    raw |= {"arms": ["filtered_only"], "funnel_arms": [], "reference_arm": "filtered_only"}
    assert HeldOutWiring(Wiring(load_experiment(raw))).styles() == ["original"]
