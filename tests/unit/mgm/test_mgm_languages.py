"""MGM on language models other than Gemma: sizes, and the life of a micro model."""

import json

import pytest
import torch

from recap.errors import RecapError

FAMILIES = ("vicuna_v1", "mistral_instruct", "llama_3")

# From the config.json files of Vicuna 1.5, Llama 3 and Mistral 0.2 (all Instruct); the totals
# are those that their model cards and weight files give.
SIZES = {
    "vicuna-7b": ("llama", 32000, 4096, 11008, 32, 32, 32, 6_738_415_616, 291),
    "vicuna-13b": ("llama", 32000, 5120, 13824, 40, 40, 40, 13_015_864_320, 363),
    "llama-3-8b": ("llama", 128256, 4096, 14336, 32, 32, 8, 8_030_261_248, 291),
    "mistral-7b": ("mistral", 32000, 4096, 14336, 32, 32, 8, 7_241_732_096, 291),
}
TOWERS, TOWER_TENSORS = 303_507_456 + 196_227_264, 391 + 340
MINING, PROJECTOR_TENSORS = 6_963_456, 16


def full_size(name):
    from transformers import AutoConfig, CLIPVisionConfig

    from recap.mgm.configuration import MGMConfig
    from recap.mgm.convnext import resolve_size
    from recap.mgm.processing import ImagePreprocessor

    kind, vocabulary, hidden, middle, layers, heads, key_value_heads, *_ = SIZES[name]
    text = AutoConfig.for_model(
        kind, vocab_size=vocabulary, hidden_size=hidden, intermediate_size=middle,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=key_value_heads,
        tie_word_embeddings=False,
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


@pytest.mark.parametrize("name", sorted(SIZES))
def test_tensors_and_parameters_of_the_full_size(name):
    from recap.mgm.lora import expected_adapter_shapes
    from recap.mgm.names import expected_shapes
    from recap.train_settings import LoraSettings

    _, vocabulary, hidden, middle, layers, heads, key_value_heads, total, count = SIZES[name]
    shapes = expected_shapes(full_size(name))
    projector = hidden * 1024 + hidden + hidden * hidden + hidden
    elements = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert elements == total + TOWERS + MINING + projector
    assert len(shapes) == count + TOWER_TENSORS + PROJECTOR_TENSORS
    assert shapes["lm_head.weight"] == (vocabulary, hidden)
    assert shapes["model.mm_projector.2.weight"] == (hidden, hidden)
    adapter = expected_adapter_shapes(shapes, LoraSettings(rank=16))
    assert len(adapter) == 14 * layers
    narrow = hidden * key_value_heads // heads
    per_layer = 2 * (hidden + hidden) + 2 * (hidden + narrow) + 3 * (hidden + middle)
    assert sum(torch.Size(s).numel() for s in adapter.values()) == 16 * layers * per_layer


@pytest.mark.parametrize(
    ("name", "model_type", "architecture"),
    [
        ("vicuna-7b", "mgm", "MGMLlamaForCausalLM"),
        ("llama-3-8b", "mgm", "MGMLlamaForCausalLM"),
        ("mistral-7b", "mgm_mistral", "MGMMistralForCausalLM"),
    ],
)
def test_config_json_names_upstream_s_classes(name, model_type, architecture):
    from recap.mgm.configuration import config_to_disk

    disk = config_to_disk(full_size(name), "float16")
    assert (disk["model_type"], disk["architectures"]) == (model_type, [architecture])


@pytest.fixture(scope="module", params=FAMILIES)
def parts(request, tmp_path_factory):
    from recap.mgm.micro import write_micro_parts

    folder = tmp_path_factory.mktemp(request.param)
    return write_micro_parts(folder, seed=2, layers=2, hidden_size=64, conversation=request.param)


@pytest.fixture(scope="module")
def tokenizer(parts):
    from recap.mgm.checkpoint import load_tokenizer

    return load_tokenizer(parts.language_model)


@pytest.fixture
def model(parts):
    from recap.mgm.checkpoint import build_model

    return build_model(parts, dtype="float32", seed=7)


def images(count):
    return torch.randn(count, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def training_batch(parts, tokenizer):
    from recap.mgm.conversation import encode_sample, pad_token_id
    from recap.train.collate import Collator

    rows = []
    for question, answer, picture in (
        ("<image>\nWhat is it?", "A dog! It sits on a mat.", images(1)[0]),
        ("Hi", "!", None),
    ):
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        ids, labels = encode_sample(turns, tokenizer, parts.conversation)
        rows.append({"input_ids": ids, "labels": labels, "image": picture})
    return rows, Collator(pad_token_id(tokenizer))


def prompt_ids(parts, tokenizer, text="<image>\nWhat is it?"):
    from recap.mgm.conversation import encode_prompt

    return torch.tensor([encode_prompt(text, tokenizer, parts.conversation)])


def test_image_features_are_not_scaled(model):
    features = images(1)[0]
    assert torch.equal(model.scale_features(features), features)


def test_loss_is_the_same_on_either_padding_side_and_sample_by_sample(parts, tokenizer, model):
    rows, collate = training_batch(parts, tokenizer)
    losses = {}
    for side in ("right", "left"):
        model.config.tokenizer_padding_side = side
        losses[side] = model(**collate(rows)).loss.item()
    assert losses["left"] == pytest.approx(losses["right"], rel=1e-5)
    counts = [sum(label != -100 for label in row["labels"]) for row in rows]
    single = [model(**collate([row])).loss.item() for row in rows]
    mean = sum(n * loss for n, loss in zip(counts, single, strict=True)) / sum(counts)
    assert losses["right"] == pytest.approx(mean, rel=1e-5)


def test_embedding_of_the_padding_token_plays_no_part(parts, tokenizer, model):
    """Id 0 is text in Llama 3's vocabulary, and stands in the second answer as such."""
    rows, collate = training_batch(parts, tokenizer)
    before = model(**collate(rows)).loss.item()
    assert before == pytest.approx(model(**type(collate)(5)(rows)).loss.item(), rel=1e-6)


def test_generation_stops_at_the_family_s_tokens(parts, tokenizer, model):
    from recap.mgm.conversation import stop_token_ids

    stops = stop_token_ids(tokenizer, parts.conversation)
    ids = prompt_ids(parts, tokenizer)
    mask = torch.ones_like(ids)

    def answer(eos_token_ids):
        return model.generate_answers(
            ids, mask, images_aux=images(1), max_new_tokens=8, eos_token_ids=eos_token_ids
        )[0]

    free = answer(())
    assert len(free) == 8
    position = next(p for p in range(1, 8) if free[p] not in free[:p])
    head = model.get_output_embeddings().weight.data
    for stop in stops:
        pair = [free[position], stop]
        head[pair] = head[pair[::-1]].clone()
        assert answer(stops) == [*free[:position], stop]
        head[pair] = head[pair[::-1]].clone()


def test_checkpoint_round_trip(parts, tokenizer, model, tmp_path):
    from recap.mgm.checkpoint import load_checkpoint, save_checkpoint
    from recap.mgm.names import checkpoint_state

    save_checkpoint(model, tokenizer, tmp_path / "full", dtype="float32", max_shard_size="300KB")
    again, loaded = load_checkpoint(tmp_path / "full", dtype="float32")
    assert again.config.conversation == parts.conversation
    ignored = {"architectures", "_name_or_path", "dtype"}
    texts = [m.config.text_config.to_dict().items() for m in (model, again)]
    first, second = ({k: v for k, v in items if k not in ignored} for items in texts)
    assert first == second
    wanted, found = checkpoint_state(model), checkpoint_state(again)
    assert "lm_head.weight" in wanted
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    ids = prompt_ids(parts, loaded)
    assert torch.equal(ids, prompt_ids(parts, tokenizer))
    mask = torch.ones_like(ids)
    logits = [m(ids, mask, images_aux=images(1)).logits for m in (model, again)]
    assert torch.equal(*logits)
    disk = json.loads((tmp_path / "full/config.json").read_text())
    assert disk["rope_theta"] == model.config.text_config.rope_parameters["rope_theta"]


def test_adapter_is_trained_checked_merged_and_answers_alike(
    parts, tokenizer, model, tmp_path, mgm_questions
):
    from recap.mgm.check import check_adapter
    from recap.mgm.checkpoint import describe_base, save_adapter
    from recap.mgm.lora import add_lora
    from recap.mgm.merge import merge_lora_weights
    from recap.mgm.parity import check_parity
    from recap.settings import MergeSettings
    from recap.train_settings import LoraSettings

    rows, collate = training_batch(parts, tokenizer)
    add_lora(model, LoraSettings(dropout=0.0), seed=4)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    losses = []
    for _ in range(3):
        loss = model(**collate(rows)).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    assert losses[-1] < losses[0]
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    save_adapter(model, adapter, base=describe_base(parts))
    assert check_adapter(adapter, parts)["adapter_tensors"] == 28
    settings = MergeSettings(max_shard_size="300KB", parity_prompts=1, parity_max_new_tokens=3)
    merge_lora_weights(adapter, parts, merged, settings)
    report = check_parity(
        merged, adapter, parts, images_root=mgm_questions.parent / "images",
        questions=mgm_questions, settings=settings, out=tmp_path / "parity.json",
    )  # fmt: skip
    assert report["passed"]


def test_runner_answers_in_the_checkpoint_s_template(
    parts, tokenizer, model, tmp_path, mgm_questions
):
    import eval_textvqa
    from recap.mgm.checkpoint import load_checkpoint, save_checkpoint
    from recap.mgm.conversation import stop_token_ids

    checkpoint, questions = tmp_path / "full", tmp_path / "questions.jsonl"
    save_checkpoint(model, tokenizer, checkpoint, dtype="float32")
    asked = [json.loads(line) for line in mgm_questions.read_text().splitlines()]
    for row in asked:
        row["text"] += "\nReference OCR token: A\nAnswer briefly."
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    flags = {
        "--model-path": checkpoint, "--question-file": questions,
        "--image-folder": mgm_questions.parent / "images", "--answers-file": tmp_path / "a.jsonl",
        "--dtype": "float32", "--max_new_tokens": 4, "--conv-mode": parts.conversation,
    }  # fmt: skip

    def run(**changes):
        pairs = (flags | {f"--{k.replace('_', '-')}": v for k, v in changes.items()}).items()
        eval_textvqa.main(
            eval_textvqa.parser().parse_args([str(item) for pair in pairs for item in pair])
        )

    run()
    given = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    again, loaded = load_checkpoint(checkpoint, dtype="float32")
    from PIL import Image

    from recap.mgm.processing import ImagePreprocessor

    preprocess = ImagePreprocessor.from_checkpoint(checkpoint)
    for row, text in zip(asked, given, strict=True):
        ids = prompt_ids(parts, loaded, f"<image>\n{row['text']}")
        picture = preprocess(Image.open(mgm_questions.parent / "images" / row["image"]), "pad")
        tokens = again.generate_answers(
            ids, torch.ones_like(ids), images_aux=picture[None], max_new_tokens=4,
            eos_token_ids=stop_token_ids(loaded, parts.conversation),
        )[0]  # fmt: skip
        assert loaded.decode(tokens, skip_special_tokens=True).strip() == text
    with pytest.raises(RecapError, match="leave --conv-mode out"):
        run(conv_mode="gemma")


def test_rotary_frequencies_in_old_files_are_passed_over(parts, tmp_path):
    import shutil
    from dataclasses import replace

    from safetensors.torch import load_file, save_file

    from recap.mgm.checkpoint import build_model

    folder = shutil.copytree(parts.language_model, tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = build_model(replace(parts, language_model=folder), dtype="float32", seed=0)
    assert not any("inv_freq" in name for name in model.state_dict())


def test_a_vocabulary_file_that_the_library_misreads_is_refused(tmp_path):
    """Read for Mistral, the file loses the space in front of a text; for Llama it does not."""
    import sentencepiece

    from recap.mgm.checkpoint import load_tokenizer

    text = tmp_path / "text.txt"
    text.write_text("[INST] What is it? [/INST] USER: two words, a dog and a cat.\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), model_type="bpe",
        vocab_size=320, byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    for kind in ("llama", "mistral"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        if kind == "llama":
            assert load_tokenizer(tmp_path)("USER:").input_ids[0] == 1
            continue
        with pytest.raises(RecapError, match=r"put the model's tokenizer.json beside it"):
            load_tokenizer(tmp_path)
