r"""How each family of language models writes a conversation.

What the templates were checked against:

* ``gemma``: upstream MGM's ``preprocess_gemma``.
* ``vicuna_v1`` (upstream's training calls it ``v1``): ``conv_vicuna_v1`` and
  ``preprocess_v1`` of LLaVA 1.2.2.post1 (PyPI ``llava-torch``, Apache-2.0),
  which MGM took over.
* ``mistral_instruct``: ``conv_mistral_instruct`` and ``preprocess_llama_2`` of
  the same release. LLaVA puts no BOS text between rounds; should a fork do so,
  only conversations of several rounds differ.
* ``llama_3``: Meta's published format of turns (``<|start_header_id|>role
  <|end_header_id|>``, blank line, trimmed text, ``<|eot_id|>``) and LLaVA-NeXT's
  system prompt, as in ``conv_llava_llama_3`` of its copy in PyPI ``llavaction``
  0.0.1. MGM's own source was not at hand: neither its system prompt nor its
  trimming is confirmed.

No template contains the text of BOS: the tokenizer adds it, once.
"""

from dataclasses import dataclass

from ..errors import RecapError


@dataclass(frozen=True)
class Template:
    """One family's form.

    Attributes:
        turn: a user's turn, with ``{text}``; ends where the model's header begins.
        header: what precedes an answer; everything up to it is ignored by the loss.
        answer: an answer, with ``{text}``; trained as a whole.
        separator: ends a round and is trained; one token of the vocabulary.
        stop: tokens that end a generated answer.
        reserved: text that no turn may contain, as it would shift a border.
        system: text in front of the first turn.
        trimmed: whether white space around a text is removed: a newline at the start of
            an answer would melt into the header's.
    """

    turn: str
    header: str
    answer: str
    separator: str
    stop: tuple[str, ...]
    reserved: tuple[str, ...]
    system: str = ""
    trimmed: bool = False

    def fill(self, form: str, text: str) -> str:
        """Put a text into :attr:`turn` or :attr:`answer`."""
        return form.format(text=text.strip() if self.trimmed else text)


_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
_LLAMA_3_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)

TEMPLATES: dict[str, Template] = {
    "gemma": Template(
        turn="<start_of_turn>user\n{text}<end_of_turn>\n",
        header="<start_of_turn>model\n",
        answer="{text}<end_of_turn>\n",
        separator="<eos>",
        stop=("<eos>", "<end_of_turn>"),
        reserved=("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>"),
    ),
    "vicuna_v1": Template(
        turn="USER: {text} ",
        header="ASSISTANT:",
        answer=" {text}",
        separator="</s>",
        stop=("</s>",),
        reserved=("ASSISTANT:", "<s>", "</s>"),
        system=_VICUNA_SYSTEM,
    ),
    "mistral_instruct": Template(
        turn="[INST] {text} ",
        header="[/INST]",
        answer=" {text} ",
        separator="</s>",
        stop=("</s>",),
        reserved=("[INST]", "[/INST]", "<s>", "</s>"),
    ),
    "llama_3": Template(
        turn="<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>",
        header="<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer="{text}",
        separator="<|eot_id|>",
        stop=("<|eot_id|>", "<|end_of_text|>"),
        reserved=(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ),
        system=f"<|start_header_id|>system<|end_header_id|>\n\n{_LLAMA_3_SYSTEM}<|eot_id|>",
        trimmed=True,
    ),
}


def get_template(name: str) -> Template:
    """Return a template by name.

    Raises:
        RecapError: for an unknown name.
    """
    if name not in TEMPLATES:
        raise RecapError(f"unknown conversation template {name!r}; known: {sorted(TEMPLATES)}")
    return TEMPLATES[name]
