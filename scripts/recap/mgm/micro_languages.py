"""Tiny language models of the families beside Gemma, each with its tokenizer's manners.

Same classes, special tokens and treatment of spaces as the real ones: Llama 2
and Mistral put a space in front of a text and have no padding token; Llama 3
works on bytes and ends turns with ``<|eot_id|>``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_LLAMA_3_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)


@dataclass(frozen=True)
class MicroFamily:
    """What sets one family apart.

    Attributes:
        kind: model type of transformers.
        key_value_heads: share of the heads that have keys and values of their own.
        settings: further values of the model's configuration.
        words: pieces that the real vocabulary has and that decide where words are cut.
        legacy: whether a space is put in front of text behind a special token too.
    """

    kind: str
    key_value_heads: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    legacy: bool = False


# by conversation template; "USER" is one piece at the start of a round, two after a space
FAMILIES: dict[str, MicroFamily] = {
    "vicuna_v1": MicroFamily("llama", settings={"rms_norm_eps": 1e-5}, words=("USER",)),
    "mistral_instruct": MicroFamily(
        "mistral", 0.5, {"rope_theta": 1e6, "sliding_window": None}, words=(" [",), legacy=True
    ),
    "llama_3": MicroFamily("llama", 0.5, {"rope_theta": 5e5}, words=("\n\n",)),
}


def write_micro_language(
    folder: Path, conversation: str, words: Iterable[str], *, hidden: int, layers: int
) -> None:
    """Write a random model and the tokenizer of the family that ``conversation`` belongs to."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family = FAMILIES[conversation]
    pieces = (*family.words, *words)
    if conversation == "llama_3":
        tokenizer = _llama_3_tokenizer(pieces)
    else:
        tokenizer = _llama_tokenizer(pieces, family.legacy)
    tokenizer.save_pretrained(folder)
    heads = max(hidden // 32, 2)
    settings = dict(family.settings)
    rope = {"rope_type": "default", "rope_theta": settings.pop("rope_theta", 1e4)}
    config = AutoConfig.for_model(
        family.kind,
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=int(heads * family.key_value_heads),
        max_position_embeddings=2048,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=False,
        rope_parameters=rope,
        **settings,
    )
    model = AutoModelForCausalLM.from_config(config)
    # a quieter head: a loss near that of guessing, and the same greedy answers
    model.lm_head.weight.data.mul_(0.3)
    model.save_pretrained(folder)


def _llama_tokenizer(words: Iterable[str], legacy: bool) -> Any:
    """Return a ``LlamaTokenizer``: pieces with byte fallback, ids 0 to 2 as in Llama 2."""
    from transformers import LlamaTokenizer

    from .micro import micro_vocabulary

    vocab, merges = micro_vocabulary(words, {"<unk>": 0, "<s>": 1, "</s>": 2})
    return LlamaTokenizer(
        vocab=vocab,
        merges=merges,
        legacy=legacy,
        add_bos_token=True,
        add_eos_token=False,
        padding_side="right",
    )


def _llama_3_tokenizer(words: Iterable[str]) -> Any:
    """Return a tokenizer on bytes whose special tokens come last, as in Llama 3."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocab = {letter: index for index, letter in enumerate(sorted(whole.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        letters = "".join(piece for piece, _ in whole.pre_tokenize_str(word))
        for end in range(2, len(letters) + 1):
            if letters[:end] not in vocab:
                vocab[letters[:end]] = len(vocab)
                merges.append((letters[: end - 1], letters[end - 1]))
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges))
    words_and_spaces = Regex(r" ?\w+|\s*[\r\n]+|\s+(?!\S)|\s+|[^\s\w]+")
    split = pre_tokenizers.Split(words_and_spaces, behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in _LLAMA_3_SPECIALS])
    bos, eos = _LLAMA_3_SPECIALS[:2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
