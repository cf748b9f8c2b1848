"""Tokenizers of the micro models: the real ones' kind and special ids, a small vocabulary."""

import json
from pathlib import Path
from typing import Any

from .micro_text import tokenizer_text

GEMMA_CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]")
GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>")
OPT_CONTROL = ("<s>", "<pad>", "</s>", "<unk>")
_OPT_ROLES = {
    "bos_token": "</s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}
TEXTS = 2000
_SPACE = "▁"
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) "
    "+ '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def build_gemma_tokenizer(seed: int, vocabulary: int) -> Any:
    """Return a ``GemmaTokenizer``: BPE over text with byte fallback.

    Ids as in Gemma: 0 ``<pad>``, 1 ``<eos>``, 2 ``<bos>``, 3 ``<unk>``, 4
    ``<mask>``, 5 to 105 reserved, 106 and 107 the turn marks, 108 newline; then
    the 256 bytes, the printable ASCII characters and the learnt pieces. BOS is
    added, EOS isn't, padding is on the right.

    Args:
        seed: of the texts the pieces are learnt from.
        vocabulary: the largest size; fewer if the texts hold fewer pieces.
    """
    from tokenizers import AddedToken
    from transformers import GemmaTokenizer

    fixed = [*GEMMA_CONTROL, *(f"<unused{i}>" for i in range(99)), *GEMMA_TURNS, "\n"]
    fixed += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces, merges = _learn_gemma_pieces(seed, vocabulary - len(fixed))
    vocab = {piece: number for number, piece in enumerate(fixed)}
    for piece in pieces:
        vocab.setdefault(piece, len(vocab))
    tokenizer = GemmaTokenizer(
        vocab=vocab,
        merges=merges,
        padding_side="right",
        add_bos_token=True,
        add_eos_token=False,
        extra_special_tokens=list(GEMMA_TURNS),
        model_max_length=8192,
        chat_template=_CHAT_TEMPLATE,
    )
    # One piece, whatever stands beside it.
    tokenizer.add_tokens([AddedToken("\n", normalized=False)])
    return tokenizer


def _learn_gemma_pieces(seed: int, size: int) -> tuple[list[str], Any]:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", _SPACE)
    # Pieces are words with the space before them; digits and marks stay alone.
    learner.pre_tokenizer = pre_tokenizers.Split(
        Regex(f"{_SPACE}?[A-Za-z]+|{_SPACE}?[^A-Za-z]"), behavior="isolated"
    )
    alphabet = [_SPACE, *(chr(code) for code in range(33, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(tokenizer_text(seed, TEXTS), trainer)
    return _read_pieces(learner)


def _read_pieces(learner: Any) -> tuple[list[str], Any]:
    model = json.loads(learner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [(left, right) for left, right in model["merges"]]


def build_opt_tokenizer(seed: int, vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer laid out as OPT's, with ``<image>`` at the end.

    Ids: 0 ``<s>``, 1 ``<pad>``, 2 ``</s>``, 3 ``<unk>``, then the 256 bytes and
    the learnt pieces. ``</s>`` begins a text, as in OPT.

    Args:
        seed: of the texts the pieces are learnt from.
        vocabulary: the largest size.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import GPT2Tokenizer

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(OPT_CONTROL) - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(tokenizer_text(seed, TEXTS), trainer)
    pieces, merges = _read_pieces(learner)
    tokenizer = GPT2Tokenizer(
        vocab={piece: number for number, piece in enumerate([*OPT_CONTROL, *pieces])},
        merges=merges,
        model_max_length=512,
        **_OPT_ROLES,
    )
    begin = tokenizer.convert_tokens_to_ids("</s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", begin)]
    )
    tokenizer.add_tokens([AddedToken("<image>", normalized=False, special=True)])
    return tokenizer


def build_clip_tokenizer(seed: int, vocabulary: int) -> Any:
    """Return a ``CLIPTokenizer``: lower-case BPE with ``</w>`` at a word's end.

    Ids: 0 ``<|startoftext|>``... as learnt, with ``<|endoftext|>`` the largest, which CLIP
    pools at, and ``!`` (id 0) for padding, as in OpenAI's.

    Args:
        seed: of the texts the pieces are learnt from.
        vocabulary: the largest size.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    alphabet = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2 - len(alphabet),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(tokenizer_text(seed, TEXTS), trainer)
    pieces, merges = _read_pieces(learner)
    ordered = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *pieces]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(ordered))}
    for piece in ("<|startoftext|>", "<|endoftext|>"):
        vocab[piece] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token="!", model_max_length=48)  # noqa: S106


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save in the layout that ``AutoTokenizer.from_pretrained`` reads."""
    tokenizer.save_pretrained(str(folder))
