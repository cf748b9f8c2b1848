"""Statistics of Data-Juicer's image operators with a model, against its own classes."""

import sys
from types import ModuleType

import numpy as np
import pytest
from curate_models import VISION, build_blip, build_classifier, build_clip, shake
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recap.curate.juicer import apply_thresholds, compute_statistics, load_filter
from recap.curate.measure import measure
from recap.curate.model_operators import KINDS, is_batched, model_statistics, model_verdicts
from recap.curate.statistics import column_name, operator_key
from recap.errors import RecapError
from recap.settings import OperatorModelSettings

IMAGE, END = "<__dj__image>", "<|__dj__eoc|>"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of the models, by the parameter that names them."""
    folder = tmp_path_factory.mktemp("models")
    names = {"hf_watermark_model": build_classifier, "hf_clip": build_clip, "hf_blip": build_blip}
    found = {}
    for name, build in names.items():
        (folder / name).mkdir()
        found[name] = str(build(folder / name))
    return found | {"hf_nsfw_model": found["hf_watermark_model"]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Images of every mode and odd sizes, and records with none, one and several."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(3)
    modes = {"rgb.jpg": "RGB", "grey.jpg": "L", "cmyk.jpg": "CMYK", "palette.png": "P"}
    modes |= {"alpha.png": "RGBA", "bits.png": "1", "wide.png": "RGB", "tall.jpg": "RGB"}
    for name, mode in modes.items():
        size = {"wide.png": (151, 20), "tall.jpg": (21, 90)}.get(name, (37, 45))
        pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).convert(mode).save(root / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = rng.integers(0, 255, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(turned).save(root / "turned.jpg", exif=exif)
    rows = [
        {"id": f"one{n}", "text": f"{IMAGE}\na red {word} {END}", "images": [name]}
        for n, (name, word) in enumerate(
            zip(
                [*modes, "turned.jpg"],
                ["sign", "dog", "square", "circle", "a", "blue", "sign", "dog", "a"],
                strict=True,
            )
        )
    ]
    texts = [
        (
            f"{IMAGE}{IMAGE} a dog {END} {IMAGE} blue sign {END}",
            ["rgb.jpg", "grey.jpg", "cmyk.jpg"],
        ),
        (f"{IMAGE} a {END}{IMAGE} red {END}", ["rgb.jpg", "rgb.jpg"]),
        (f"no image token {END}", ["tall.jpg"]),
        (f"{IMAGE} {END}", ["wide.png"]),
        (f"{IMAGE} {'red ' * 40}{END}", ["palette.png"]),
        (f"a text alone {END}", []),
        (f"{END}{IMAGE}<__dj__audio> sign", ["alpha.png", "bits.png"]),
    ]
    rows += [{"id": f"odd{n}", "text": t, "images": i} for n, (t, i) in enumerate(texts)]
    return root, rows


def theirs(operator, root, rows):
    """The statistics by Data-Juicer's class, one record at a time as it works."""
    op = load_filter(operator)
    found = []
    for row in rows:
        sample = {"text": row["text"], "images": [str(root / image) for image in row["images"]]}
        found += compute_statistics(op, [sample], [{}])
    return [{key: list(map(float, value)) for key, value in each.items()} for each in found]


def ours(operators, root, rows, **settings):
    return model_statistics(rows, root, operators, OperatorModelSettings(**settings))


def assert_equal(found, expected):
    assert [list(each) for each in found] == [list(each) for each in expected]
    for mine, other in zip(found, expected, strict=True):
        for key, values in other.items():
            assert mine[key] == pytest.approx(values, abs=1e-5), key


OPERATORS = {
    "watermark": {"image_watermark_filter": {}},
    "nsfw": {"image_nsfw_filter": {}},
    "similarity": {"image_text_similarity_filter": {}},
    "similarity max flipped": {
        "image_text_similarity_filter": {"reduce_mode": "max", "horizontal_flip": True}
    },
    "matching": {"image_text_matching_filter": {}},
    "matching min upside down": {
        "image_text_matching_filter": {
            "reduce_mode": "min",
            "horizontal_flip": True,
            "vertical_flip": True,
        }
    },
}


def with_model(operator, models):
    name, params = next(iter(operator.items()))
    parameter = KINDS[name].parameter
    return {name: {parameter: models[parameter], **params}}


@pytest.mark.parametrize("name", OPERATORS)
def test_statistics_are_those_of_data_juicers_class(name, models, corpus):
    root, rows = corpus
    operator = with_model(OPERATORS[name], models)
    expected = theirs(operator, root, rows)
    values = [value for each in expected for found in each.values() for value in found]
    assert max(values) - min(values) > 0.01, "the model must tell images apart"
    for size in (1, 3, 64):
        found = ours([operator], root, rows, batch_size=size)[operator_key(operator)]
        assert_equal(found, expected)


def test_one_pass_serves_all_operators_and_measure_uses_it(models, corpus, monkeypatch):
    from recap.curate import ahead

    root, rows = corpus
    decoded = []
    decode = ahead.decode
    monkeypatch.setattr(ahead, "decode", lambda source: decoded.append(source) or decode(source))
    operators = [with_model(operator, models) for operator in OPERATORS.values()]
    found = ours(operators, root, rows)
    assert len(found) == len(operators)
    assert len(decoded) == len({image for row in rows for image in row["images"]})
    size = {"image_shape_filter": {}}
    table = measure(rows, root, [operators[0], size, operators[2]])
    for operator in (operators[0], operators[2]):
        for statistic, column in table.columns_of(operator).items():
            stored = [each[statistic] for each in found[operator_key(operator)]]
            for mine, other in zip(table.columns[column], stored, strict=True):
                assert mine == pytest.approx(other, abs=1e-6)
    assert table.columns["image_width"][7] == [21]


def test_defaults_are_those_of_data_juicers_classes():
    import inspect

    for name, kind in KINDS.items():
        known = inspect.signature(type(load_filter({name: {}})).__init__).parameters
        assert known[kind.parameter].default in (kind.default, ""), name
        for threshold, default in kind.thresholds.items():
            assert known[threshold].default == default, (name, threshold)
    assert len(KINDS) == 5


@pytest.fixture(scope="module")
def classes():
    return {name: type(load_filter({name: {}})) for name in KINDS}


limits = st.one_of(st.floats(-1, 1), st.sampled_from([0, 1, None]))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("min_closed_interval", "max_closed_interval"), st.booleans()),
            **dict.fromkeys(("min_score", "max_score", "prob_threshold"), limits),
            "reversed_range": st.booleans(),
            "any_or_all": st.sampled_from(["any", "all"]),
        },
    ),
    st.lists(st.lists(st.one_of(st.floats(-1, 1), limits.filter(bool)), max_size=3), max_size=8),
)
def test_thresholds_decide_as_data_juicers_classes_do(classes, name, options, values):
    kind, cls = KINDS[name], classes[name]
    other = {"prob_threshold"} if "min_score" in kind.thresholds else {"min_score", "max_score"}
    full = {key: value for key, value in options.items() if key not in other}
    stored = [{kind.statistic: value} for value in values]
    assert model_verdicts({name: full}, stored) == apply_thresholds(cls(**full), stored)


def test_thresholds_that_are_not_known_are_left_to_the_class():
    for extra in ({"trust_remote_code": True}, {"any_or_all": "some"}, {"batch_size": 3}):
        known = model_verdicts({"image_nsfw_filter": {"max_score": 0.1}}, [])
        assert known == []
        assert model_verdicts({"image_nsfw_filter": extra}, []) is None
    assert model_verdicts({"image_shape_filter": {}}, []) is None


def test_what_is_not_known_here_runs_through_data_juicers_class(models):
    plain = with_model(OPERATORS["watermark"], models)
    assert is_batched(plain)
    for extra in ({"trust_remote_code": True}, {"image_key": "pictures"}, {"reduce_mode": "max"}):
        assert not is_batched(
            {"image_watermark_filter": {**plain["image_watermark_filter"], **extra}}
        )
    assert not is_batched({"image_shape_filter": {}})


def test_columns_do_not_hold_the_folder_of_a_model():
    for name, kind in KINDS.items():
        assert column_name("x", {name: {kind.parameter: "/some/folder"}}) == "x"


def test_half_precision_is_near(models, corpus):
    root, rows = corpus
    operator = with_model(OPERATORS["watermark"], models)
    exact = ours([operator], root, rows)[operator_key(operator)]
    half = ours([operator], root, rows, dtype="bfloat16")[operator_key(operator)]
    pairs = [
        (a["image_watermark_prob"], b["image_watermark_prob"])
        for a, b in zip(exact, half, strict=True)
    ]
    gaps = [abs(x - y) for first, second in pairs for x, y in zip(first, second, strict=True)]
    assert 0 < max(gaps) < 0.03


def test_bad_images_and_tokens_are_named(models, corpus):
    root, rows = corpus
    operator = with_model(OPERATORS["similarity"], models)
    bad = [*rows, {"id": "gone", "text": f"{IMAGE} a {END}", "images": ["none.jpg"]}]
    with pytest.raises(RecapError, match=r"id 'gone': cannot decode .*none\.jpg"):
        ours([operator], root, bad)
    bad = [{"id": "few", "text": f"{IMAGE} a {END}{IMAGE} b {END}", "images": ["rgb.jpg"]}]
    with pytest.raises(RecapError, match="id 'few': its text has more image tokens"):
        ours([operator], root, bad)
    (root / "empty").mkdir(exist_ok=True)
    with pytest.raises(RecapError, match="empty"):
        ours([{"image_nsfw_filter": {"hf_nsfw_model": str(root / "empty")}}], root, rows)
    assert ours([operator], root, []) == {}


@pytest.fixture
def predictors(monkeypatch):
    """The package Data-Juicer imports for aesthetics: its classes, rebuilt by their papers.

    The stand-in's forward pass is written here, apart from the code under test.
    """
    import torch
    from torch import nn
    from transformers import CLIPVisionModelWithProjection

    class Base(CLIPVisionModelWithProjection):
        def forward(self, pixel_values):
            embeds = super().forward(pixel_values=pixel_values).image_embeds
            embeds = torch.nn.functional.normalize(embeds, dim=-1)
            score = (self.predictor if hasattr(self, "predictor") else self.layers)(embeds)
            return type("Output", (), {"logits": score})

    def head(width, relu):
        steps = [nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.2), nn.Linear(1024, 128)]
        steps += [nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1)]
        steps += [nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1)]
        return nn.Sequential(*(s for s in steps if relu or not isinstance(s, nn.ReLU)))

    class AestheticsPredictorV1(Base):
        def __init__(self, config):
            super().__init__(config)
            self.predictor = nn.Linear(config.projection_dim, 1)

    class AestheticsPredictorV2Linear(Base):
        def __init__(self, config):
            super().__init__(config)
            self.layers = head(config.projection_dim, relu=False)

    class AestheticsPredictorV2ReLU(Base):
        def __init__(self, config):
            super().__init__(config)
            self.layers = head(config.projection_dim, relu=True)

    module = ModuleType("aesthetics_predictor")
    classes = (AestheticsPredictorV1, AestheticsPredictorV2Linear, AestheticsPredictorV2ReLU)
    for cls in classes:
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "aesthetics_predictor", module)
    return classes


@pytest.mark.parametrize(
    ("place", "name"),
    [(0, "aesthetics-predictor-v1"), (1, "aesthetics-predictor-v2-linear"), (2, "other-v2-relu")],
)
def test_aesthetics_are_those_of_data_juicers_class(place, name, predictors, corpus, tmp_path):
    import torch
    from transformers import CLIPVisionConfig

    root, rows = corpus
    (tmp_path / name).mkdir()
    folder = build_clip(tmp_path / name)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    model = shake(predictors[place](CLIPVisionConfig(projection_dim=16, **VISION)).eval())
    model.save_pretrained(folder)
    operator = {"image_aesthetics_filter": {"hf_scorer_model": str(folder)}}
    expected = theirs(operator, root, rows)
    values = [value for each in expected for value in each["image_aesthetics_scores"]]
    assert max(values) - min(values) > 0.01
    (found,) = ours([operator], root, rows, batch_size=4).values()
    assert_equal(found, expected)
