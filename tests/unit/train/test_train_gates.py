import json
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from recap.errors import GateError
from recap.mgm.checkpoint import load_tokenizer
from recap.mgm.conversation import IMAGE_TOKEN_INDEX, encode_sample
from recap.train.audit import MaskAudit, check_mask, cut, encode_training_set, require_sound_masks
from recap.train.consistency import slope_ratio
from recap.train.data import Sample
from recap.train.gates import (
    GateBook,
    UpdateGates,
    require_consistent,
    require_moved_adapter,
    require_moved_projector,
    require_start_projector,
)

EOS, BOS = 1, 2


@pytest.fixture
def book(tmp_path: Path) -> GateBook:
    return GateBook(tmp_path / "gates.json")


def failed(tmp_path: Path) -> dict:
    document = json.loads((tmp_path / "gates.json").read_text())
    assert document["passed"] is False
    return document["gates"][-1]


def row(step: int, loss: float, norm: float = 1.0, rate: float = 0.1) -> dict:
    return {"step": step, "loss": loss, "grad_norm": norm, "learning_rate": rate}


@pytest.mark.parametrize(
    ("update", "loss", "norm", "name"),
    [
        (1, 1.6 * math.log(100), 1.0, "first_loss"),
        (5, math.nan, 1.0, "finite_loss"),
        (5, math.inf, 1.0, "finite_loss"),
        (5, 2.0, math.nan, "finite_grad_norm"),
        (5, 135_145_296.0, 2.15, "highest_loss"),  # a value the corrupt reference run logged
    ],
)
def test_an_update_is_stopped_before_it_is_applied(
    book: GateBook, tmp_path: Path, update: int, loss: float, norm: float, name: str
) -> None:
    gates = UpdateGates(100, book)
    gates.check(1, 1.4 * math.log(100), 1.0, ["a"])
    with pytest.raises(GateError, match=f"{name} .*Update {update} .*samples: a7, b8") as caught:
        gates.check(update, loss, norm, ["a7", "b8"])
    assert caught.value.exit_code == 3
    assert failed(tmp_path)["name"] == name


def test_conclusion_lists_name_value_bound_passed(book: GateBook, tmp_path: Path) -> None:
    UpdateGates(100, book).conclude([row(1, 4.0), row(2, 3.0)])
    book.write()
    gates = json.loads((tmp_path / "gates.json").read_text())["gates"]
    assert {gate["name"] for gate in gates} >= {"first_loss", "highest_loss", "finite_loss"}
    assert all(set(gate) == {"name", "value", "bound", "passed"} for gate in gates)


def test_a_schedule_other_than_planned_is_refused(book: GateBook) -> None:
    gates = UpdateGates(100, book)
    gates.conclude_schedule([row(1, 4.0, rate=0.1)], lambda step: 0.1 * step, 0.1)
    with pytest.raises(GateError, match="learning_rate_schedule"):
        gates.conclude_schedule([row(1, 4.0), row(2, 4.0)], lambda step: 0.1 * step, 0.1)


def test_hashes_and_adapter(book: GateBook) -> None:
    require_start_projector(book, "a", "a")
    require_moved_projector(book, "a", "b")
    require_moved_adapter(book, 1e-9)
    with pytest.raises(GateError, match="start_projector_hash"):
        require_start_projector(book, "a", "b")
    with pytest.raises(GateError, match="projector_changed"):
        require_moved_projector(book, "a", "a")
    with pytest.raises(GateError, match="adapter_b_nonzero"):
        require_moved_adapter(book, 0.0)


class Toy(nn.Module):
    """A small model whose loss can be made to lie."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Dropout(0.3), nn.Linear(32, 10))
        self.scale, self.shift = scale, shift

    def loss(self) -> torch.Tensor:
        x = torch.linspace(-1, 1, 24).reshape(4, 6)
        value = nn.functional.cross_entropy(self.net(x), torch.tensor([1, 2, 3, 4]))
        corrupt = value.detach() * (self.scale - 1) + self.shift
        return value + corrupt


@pytest.mark.parametrize("corruption", [{"scale": 1e6}, {"shift": 1e8}, {"scale": -1.0}])
def test_a_loss_that_its_gradient_does_not_explain_is_refused(
    book: GateBook, corruption: dict
) -> None:
    def ratio(model: Toy) -> float:
        return slope_ratio(list(model.parameters()), model.loss, seed=7)

    require_consistent(book, ratio(Toy()))
    with pytest.raises(GateError, match="loss_gradient_consistency"):
        require_consistent(book, ratio(Toy(**corruption)))


def test_probing_leaves_weights_and_random_state_alone() -> None:
    model = Toy()
    before = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    ratio = slope_ratio(list(model.parameters()), model.loss, seed=7)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert ratio == pytest.approx(1.0, abs=0.05)
    assert all(p.grad is None for p in model.parameters())


SAMPLE = Sample(
    "s",
    [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}] * 2,
    Path("picture.png"),
)
IDS = [BOS, -200, 9, 8, 7, EOS, 9, 6, EOS]
GOOD = [-100, -100, -100, 8, 7, EOS, -100, 6, EOS]


def test_a_correct_mask_passes() -> None:
    check_mask(SAMPLE, IDS, GOOD, bos=BOS, end=EOS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-100, -100, -100, 8, 7, EOS, 9, 6, EOS], "1 supervised spans for 2 answers"),
        ([-100, -100, -100, -100, -100, -100, -100, 6, EOS], "1 supervised spans"),
        ([-100, -100, -100, 8, 7, -100, -100, 6, EOS], "end-of-sequence"),
        ([-100, -100, -100, 8, 3, EOS, -100, 6, EOS], "label 3 supervises token 7"),
        ([-100, -200, 9, 8, 7, EOS, -100, 6, EOS], "supervises token -200"),
        ([-100, -100, -100, 8, 7, EOS, -100, 6], "9 ids but 8 labels"),
    ],
)
def test_each_kind_of_wrong_mask_is_found(labels: list[int], message: str) -> None:
    from recap.errors import RecapError

    with pytest.raises(RecapError, match=message):
        check_mask(SAMPLE, IDS, labels, bos=BOS, end=EOS)


def test_cut_counts_what_is_predicted() -> None:
    whole = cut([5, 6, 7], [5, 6, 7], 10)
    assert (whole.supervised, whole.truncated) == (2, False)  # nothing predicts position 0
    short = cut(IDS, GOOD, 3)
    assert (short.input_ids, short.supervised, short.truncated) == (IDS[:3], 0, True)


def audit_of(world, entries: list[tuple[str, str, str | None]], max_length: int = 200) -> MaskAudit:
    samples = [
        Sample(
            f"s{number}",
            [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
            Path(image) if image else None,
        )
        for number, (question, answer, image) in enumerate(entries)
    ]
    tokenizer = load_tokenizer(world.parts.language_model)
    encoded, audit = encode_training_set(
        samples, tokenizer, "gemma", max_length=max_length, image_tokens=64
    )
    for sample, item in zip(samples, encoded, strict=True):
        kept = len(item.input_ids) + (63 if sample.image else 0)
        assert kept <= max_length
    return audit


def test_the_audit_trips_on_samples_without_a_sound_mask(world, book: GateBook) -> None:
    good = ("<image>\nWhat?", "a red square", "a.png")
    audit = audit_of(world, [good, ("no token", "x", "a.png"), ("<image>\nx", "y", None)])
    assert [name for name, _ in audit.mismatches] == ["s1", "s2"]
    with pytest.raises(GateError, match=r"label_mask_mismatches failed: 2 .*s1: .*s2: "):
        require_sound_masks(book, audit, [SAMPLE] * 3, [9])


def test_the_audit_trips_on_answers_that_are_cut_away(world, book: GateBook) -> None:
    samples = [("<image>\nWhat?", "red", "a.png"), ("<image>\n" + "long " * 50, "red", "a.png")]
    audit = audit_of(world, samples, max_length=100)
    assert audit.unsupervised == ["s1"]
    assert audit.truncated == 1
    with pytest.raises(GateError, match=r"unsupervised_sample_share.*max_length.*s1"):
        require_sound_masks(book, audit, [SAMPLE] * 2, [9])


def test_a_picture_that_is_cut_away_is_told(world, book: GateBook, caplog) -> None:
    turns = [
        {"from": "human", "value": "Name a color " * 10},
        {"from": "gpt", "value": "red"},
        {"from": "human", "value": "<image>\nAnd here?"},
        {"from": "gpt", "value": "blue"},
    ]
    samples = [Sample("late", turns, Path("a.png"))]
    tokenizer = load_tokenizer(world.parts.language_model)
    ids, _ = encode_sample(turns, tokenizer, max_length=10_000)
    before = ids.index(IMAGE_TOKEN_INDEX)
    (item,), audit = encode_training_set(
        samples, tokenizer, "gemma", max_length=63 + before, image_tokens=64
    )
    assert item.supervised and not item.has_image
    assert audit.unseen == ["late"]
    with caplog.at_level(logging.WARNING):
        require_sound_masks(book, audit, samples, [item.supervised])
    assert "without their picture, which max_length cuts away: late" in caplog.text


@pytest.mark.parametrize(("supervised", "tokens"), [(0, 1000), (1000, 1000)])
def test_the_audit_trips_on_an_implausible_share(
    book: GateBook, supervised: int, tokens: int
) -> None:
    audit = MaskAudit(tokens=tokens, supervised=supervised)
    with pytest.raises(GateError, match="supervised_token_share"):
        require_sound_masks(book, audit, [SAMPLE], [9])


def test_the_audit_trips_on_an_update_with_nothing_to_predict(book: GateBook) -> None:
    with pytest.raises(GateError, match="supervised_tokens_an_update"):
        require_sound_masks(book, MaskAudit(tokens=10, supervised=5), [SAMPLE], [9, 0])


def test_ranks_with_different_weights_end_the_run(tmp_path: Path) -> None:
    gates = UpdateGates(100, GateBook(tmp_path / "gates.json"))
    gates.require_equal_ranks(True)
    with pytest.raises(GateError, match=r"equal_ranks.*no longer train one"):
        gates.require_equal_ranks(False)
