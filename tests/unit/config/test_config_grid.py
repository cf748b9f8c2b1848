"""From an experiment's keys to the command line of a stage."""

import argparse
import json
import shlex

from test_config_experiments import merge, raw_config

from recap.config import load_experiment
from recap.config.data_paths import as_json
from recap.config.wiring import Wiring
from recap.mgm.options import add_parts_options, parts_from_args
from recap.train.request import parse_settings


def parts_of(name, **changes):
    wiring = Wiring(load_experiment(merge(raw_config(name), changes)))
    options = argparse.ArgumentParser()
    add_parts_options(options)
    return parts_from_args(options.parse_args(shlex.split(wiring.base_flags())))


def test_the_base_model_s_layout_reaches_the_stages():
    plain = parts_of("blip2_30k")
    assert (plain.image_size_aux, plain.image_grid, plain.image_global) == (768, 1, False)
    large = parts_of("blip2_30k", base_model="mgm-2b-hd")
    assert (large.image_size_aux, large.image_grid, large.image_global) == (1536, 2, True)
    assert (large.language_model, large.clip) == (plain.language_model, plain.clip)


def test_stochastic_depth_is_asked_for_in_the_experiment():
    off = load_experiment(raw_config("blip2_30k")).config.train
    assert (off.pretrain.drop_path, off.finetune.drop_path) == (0, 0)
    asked = {"train": {"pretrain": {"drop_path": 0.1}, "finetune": {"drop_path": 0.1}}}
    train = load_experiment(merge(raw_config("blip2_30k"), asked)).config.train
    for stage, settings in (("pretrain", train.pretrain), ("finetune", train.finetune)):
        assert parse_settings(stage, json.loads(as_json(settings))).drop_path == 0.1
