"""Batched greedy decoding."""

from collections.abc import Sequence
from typing import Any

import torch

from .splicing import Spliced


@torch.no_grad()
def greedy_decode(
    language_model: Any,
    batch: Spliced,
    max_new_tokens: int,
    eos_token_ids: tuple[int, ...],
    step_logits: list[torch.Tensor] | None = None,
    follow: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return the most likely continuation of each row, token by token.

    Args:
        language_model: a Hugging Face causal language model.
        batch: left-padded prompts.
        max_new_tokens: longest continuation.
        eos_token_ids: ids that end a row.
        step_logits: gets the logits of every step, (B, vocabulary) each.
        follow: tokens that every row continues with, whatever is most likely; as
            many steps are made. What is returned is still the most likely token.

    Returns:
        New token ids a row, the ending one included. A row does not depend on
        the others beyond rounding; decoding stops when every row has ended.
    """
    answers: list[list[int]] = [[] for _ in range(len(batch.embeddings))]
    running = set(range(len(answers)))
    mask, positions = batch.attention_mask, batch.position_ids[:, -1:]
    inputs: dict[str, Any] = {
        "inputs_embeds": batch.embeddings,
        "position_ids": batch.position_ids,
    }
    cache = None
    for step in range(max_new_tokens if follow is None else len(follow)):
        output = language_model.model(
            **inputs, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        cache = output.past_key_values
        logits = language_model.get_output_embeddings()(output.last_hidden_state[:, -1])
        if step_logits is not None:
            step_logits.append(logits)
        chosen = logits.float().argmax(dim=-1)
        for row, token in enumerate(chosen.tolist()):
            if row in running:
                answers[row].append(token)
                if token in eos_token_ids and follow is None:
                    running.discard(row)
        if not running:
            break
        if follow is not None:
            chosen = torch.full_like(chosen, follow[step])
        positions = positions + 1
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1)
        inputs = {"input_ids": chosen.unsqueeze(1), "position_ids": positions}
    return answers
