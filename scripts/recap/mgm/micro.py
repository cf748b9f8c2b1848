"""Folders of tiny, randomly initialised parts with the real file layout.

For tests and for trying tools out: same architecture, same file names, same
special token ids as the real ones, a few hundred thousand parameters.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from ..io import write_json
from .convnext import ConvNextTower
from .loading import quiet_transformers
from .micro_languages import write_micro_language
from .openclip import save_openclip_convnext
from .parts import ModelParts
from .processing import ImagePreprocessor

SPECIAL_IDS = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<unk>": 3,
    "<start_of_turn>": 106,
    "<end_of_turn>": 107,
    "\n": 108,
}


def write_micro_parts(
    folder: str | Path,
    *,
    seed: int = 0,
    words: Iterable[str] = (),
    hidden_size: int = 128,
    layers: int = 4,
    dims: tuple[int, ...] = (16, 32, 64, 128),
    conversation: str = "gemma",
) -> ModelParts:
    """Write language model, CLIP and ConvNeXt folders and return where they are.

    Args:
        folder: where; three folders are made inside.
        seed: of all weights.
        words: extra vocabulary entries.
        hidden_size: width of the language model.
        layers: decoder layers.
        dims: widths of the ConvNeXt stages.
        conversation: the template; it decides the family of the language model.
    """
    root = Path(folder)
    language = root / ("gemma" if conversation == "gemma" else "language")
    parts = ModelParts(
        language, root / "clip", root / "convnext", conversation=conversation, image_size_aux=128
    )
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        if conversation == "gemma":
            size = write_micro_tokenizer(language, words)
            write_micro_gemma(language, vocab_size=size, hidden=hidden_size, layers=layers)
        else:
            write_micro_language(language, conversation, words, hidden=hidden_size, layers=layers)
        write_micro_clip(parts.clip)
        tower = ConvNextTower([1] * len(dims), list(dims))
        for name, parameter in tower.named_parameters():
            if name.endswith("gamma"):
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        save_openclip_convnext(tower, parts.convnext)
    return parts


def write_micro_gemma(folder: Path, *, vocab_size: int, hidden: int = 128, layers: int = 4) -> None:
    """Write a random, talkative Gemma of head size 32 with one key-value head."""
    from transformers import GemmaConfig, GemmaForCausalLM

    config = GemmaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(hidden // 32, 1),
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        initializer_range=0.3,
    )
    model = GemmaForCausalLM(config)
    # small embeddings under large layers: otherwise the tied head repeats the last token
    model.model.embed_tokens.weight.data.mul_(0.05)
    model.save_pretrained(folder)


def write_micro_clip(folder: Path) -> None:
    """Write a random CLIP vision tower: 64 pixels, patches of 8, width 64, 3 layers."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        projection_dim=32,
    )
    CLIPVisionModel(config).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", ImagePreprocessor(64).as_dict())


def write_micro_tokenizer(folder: Path, words: Iterable[str] = ()) -> int:
    """Write a Gemma-like tokenizer: bytes, ASCII characters and ``words``.

    Text is cut at spaces and punctuation; what is not in the vocabulary falls
    apart into characters or bytes, so every text can be encoded and decoded.

    Returns:
        The size of the vocabulary.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    vocab, merges = micro_vocabulary(words, SPECIAL_IDS)
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)  # noqa: S106
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    specials = [name for name in SPECIAL_IDS if name != "\n"]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <bos> $B",
        special_tokens=[("<bos>", SPECIAL_IDS["<bos>"])],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    return len(vocab)


def micro_vocabulary(
    words: Iterable[str], special: Mapping[str, int]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges: ``special`` at its ids, ASCII, bytes and ``words``."""
    by_id = {index: name for name, index in special.items()}
    pieces = ["▁", *(chr(code) for code in range(33, 127))]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        marked = word.replace(" ", "▁")
        for end in range(2, len(marked) + 1):
            if marked[:end] not in pieces:
                pieces.append(marked[:end])
                merges.append((marked[: end - 1], marked[end - 1]))
    vocab: dict[str, int] = {}
    queue = iter(pieces)
    index = 0
    for piece in queue:
        while index in by_id:
            vocab[by_id[index]] = index
            index += 1
        vocab[piece] = index
        index += 1
    return vocab, merges
