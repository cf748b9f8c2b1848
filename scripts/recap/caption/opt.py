"""OPT's greedy and sampled decoding over a fixed key-value cache.

``generate`` launches some 600 kernels a token, which takes 22 ms at any batch
size. Here each step is captured once as a CUDA graph whose attention sees just
the keys there are, and replayed for every batch. Without CUDA the same code runs
step by step.

Shapes: B rows, P prefix tokens, T new tokens, H heads, D head width, C width.
"""

from typing import TYPE_CHECKING, Any

from .attention import attend
from .sampling import DecodingRule

if TYPE_CHECKING:
    import torch


def suits(language_model: Any) -> bool:
    """Tell whether a language model is an OPT of the usual, pre-norm kind."""
    config = language_model.config
    return bool(
        config.model_type == "opt"
        and config.do_layer_norm_before
        and not config._remove_final_layer_norm
        and config.word_embed_proj_dim == config.hidden_size
    )


class OptDecoder:
    """Decodes captions with the weights of an ``OPTForCausalLM``.

    The formulas are those of ``transformers``' OPT (Zhang et al. 2022, "OPT: Open
    Pre-trained Transformer Language Models"); queries, keys and values of a layer
    come from one product of their stacked weights.
    """

    def __init__(self, language_model: Any, rule: DecodingRule, *, graphs: bool) -> None:
        """Take over the weights; the model's own matrices become views of the stacked ones.

        Args:
            language_model: see :func:`suits`.
            rule: how tokens are chosen.
            graphs: capture CUDA graphs, one a step, for the first batch's size.
        """
        decoder = language_model.model.decoder
        self._tokens, self._positions = decoder.embed_tokens, decoder.embed_positions
        self._norm, self._head = decoder.final_layer_norm, language_model.lm_head
        self._layers = [_Layer(layer) for layer in decoder.layers]
        self._rule = rule
        self._graphs_wanted = graphs
        self._buffers: _Buffers | None = None

    def decode(
        self, prefix_BPC: "torch.Tensor", uniform_BT: "torch.Tensor | None"
    ) -> "torch.Tensor":
        """Return the new tokens, int64 (B, at most T), filled up after each end.

        Args:
            prefix_BPC: embeddings of everything before the caption.
            uniform_BT: see :meth:`DecodingRule.choose`; none decodes greedily.
        """
        buffers = self._prepare(prefix_BPC, uniform_BT)
        if uniform_BT is not None:
            buffers.uniform.copy_(uniform_BT)
        buffers.restart()
        hidden = self._run(buffers, prefix_BPC, 0)
        self._choose(buffers, hidden[:, -1], 0)
        steps = 1
        while steps < self._rule.max_new_tokens and not buffers.ended(steps - 1):
            buffers.replay(steps)
            steps += 1
        return buffers.out[:, :steps]

    def _prepare(self, prefix: "torch.Tensor", uniform: "torch.Tensor | None") -> "_Buffers":
        """Return the buffers of this shape, with their steps captured on first use."""
        shape = (*prefix.shape[:2], uniform is not None)
        if self._buffers is None or self._buffers.shape != shape:
            self._buffers = None  # frees the old ones first
            self._buffers = _Buffers(self._layers, self._rule, prefix, uniform is not None)
            self._buffers.capture(self._step, graphs=self._graphs_wanted)
        return self._buffers

    def _step(self, buffers: "_Buffers", step: int) -> None:
        """Make token number ``step`` of each row from the one before."""
        embedded = self._tokens(buffers.last)[:, None]
        hidden = self._run(buffers, embedded, buffers.prefix_length + step - 1)
        self._choose(buffers, hidden[:, -1], step)

    def _run(self, buffers: "_Buffers", embedded: "torch.Tensor", start: int) -> "torch.Tensor":
        """Return the last layer's states (B, n, C) of n positions from ``start`` on."""
        end = start + embedded.shape[1]
        # Two rows of the table precede position 0 (fairseq's padding offset).
        places = buffers.places[start:end] + self._positions.offset
        hidden = embedded + self._positions.weight[places]
        for layer, cache in zip(self._layers, buffers.caches, strict=True):
            hidden = layer(hidden, cache, start, end)
        return hidden

    def _choose(self, buffers: "_Buffers", hidden_BC: "torch.Tensor", step: int) -> None:
        logits = self._head(self._norm(hidden_BC))
        uniform = buffers.uniform[:, step] if buffers.sampled else None
        buffers.note(step, self._rule.choose(logits, uniform))


class _Layer:
    """One decoder layer."""

    def __init__(self, layer: Any) -> None:
        import torch

        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._weight = torch.cat([part.weight.data for part in parts])
        self._bias = (
            torch.cat([part.bias.data for part in parts]) if attention.enable_bias else None
        )
        for index, part in enumerate(parts):  # no second copy, and `generate` still works
            rows = slice(index * part.out_features, (index + 1) * part.out_features)
            part.weight.data = self._weight[rows]
            if self._bias is not None:
                part.bias.data = self._bias[rows]
        self.heads, self.head_dim = attention.num_heads, attention.head_dim
        self._scaling = attention.scaling
        self._out = attention.out_proj
        self._norm_1, self._norm_2 = layer.self_attn_layer_norm, layer.final_layer_norm
        self._fc1, self._fc2, self._activation = layer.fc1, layer.fc2, layer.activation_fn

    def __call__(
        self, hidden_BnC: "torch.Tensor", cache: "torch.Tensor", start: int, end: int
    ) -> "torch.Tensor":
        """Return the states after this layer; keys and values join the cache."""
        from torch.nn.functional import linear, scaled_dot_product_attention

        batch, count, width = hidden_BnC.shape
        stacked = linear(self._norm_1(hidden_BnC), self._weight, self._bias)
        stacked = stacked.view(batch, count, 3, self.heads, self.head_dim)
        cache[:, :, start:end] = stacked[:, :, 1:].permute(2, 0, 1, 3, 4)
        query = stacked[:, :, 0] * self._scaling
        if count == 1:
            mixed = attend(query[:, 0], cache, end)
        else:
            keys, values = cache[:, :, :end].transpose(2, 3)  # (B, H, end, D) each
            mixed = scaled_dot_product_attention(
                query.transpose(1, 2), keys, values, is_causal=True, scale=1.0
            ).transpose(1, 2)
        hidden = hidden_BnC + self._out(mixed.reshape(batch, count, width))
        inner: torch.Tensor = self._activation(self._fc1(self._norm_2(hidden)))
        return hidden + self._fc2(inner)


class _Buffers:
    """What the steps of one batch shape share: caches, tokens and captured graphs."""

    def __init__(
        self, layers: list[_Layer], rule: DecodingRule, prefix: "torch.Tensor", sampled: bool
    ) -> None:
        import torch

        rows, self.prefix_length = prefix.shape[:2]
        self.shape = (rows, self.prefix_length, sampled)
        self.sampled = sampled
        device, steps = prefix.device, rule.max_new_tokens
        length = self.prefix_length + steps - 1
        self.caches = [
            torch.empty(
                (2, rows, length, layer.heads, layer.head_dim), dtype=prefix.dtype, device=device
            )
            for layer in layers
        ]
        self.places = torch.arange(length, device=device)
        self.uniform = torch.zeros((rows, steps if sampled else 0), device=device)
        self.last = torch.zeros(rows, dtype=torch.int64, device=device)
        self.out = torch.full((rows, steps), rule.pad, dtype=torch.int64, device=device)
        self._ends = torch.tensor(rule.end, device=device)
        self._pad = rule.pad
        self._finished = torch.zeros(rows, dtype=torch.bool, device=device)
        self._all = torch.zeros(steps, dtype=torch.bool, device=device)
        self._seen = torch.zeros(steps, dtype=torch.bool)
        if prefix.is_cuda:
            self._seen = self._seen.pin_memory()
        self._marks: dict[int, Any] = {}
        self._replay: dict[int, Any] = {}

    def restart(self) -> None:
        """Forget the last batch."""
        self._finished.zero_()
        self.out.fill_(self._pad)
        self._marks.clear()

    def note(self, step: int, chosen: "torch.Tensor") -> None:
        """Write a step's tokens; rows that had ended get padding."""
        import torch

        tokens = torch.where(self._finished, self._pad, chosen)
        self.out[:, step] = tokens
        self.last.copy_(tokens)
        self._finished |= (tokens[:, None] == self._ends).any(-1)
        self._all[step] = self._finished.all()

    def ended(self, step: int) -> bool:
        """Tell whether all rows had ended by the step before ``step``.

        Looking one step back keeps the GPU busy: what is asked for has long been
        computed, and at most one step too many is made.
        """
        if not self._all.is_cuda:
            return bool(self._all[step])
        import torch

        self._seen[step : step + 1].copy_(self._all[step : step + 1], non_blocking=True)
        self._marks[step] = mark = torch.cuda.Event()
        mark.record()
        if step == 0:
            return False
        self._marks[step - 1].synchronize()
        return bool(self._seen[step - 1])

    def capture(self, make_step: Any, *, graphs: bool) -> None:
        """Prepare every step after the first, as CUDA graphs if so wanted."""
        steps = range(1, self.out.shape[1])
        if not graphs:
            self._replay = {step: (lambda s=step: make_step(self, s)) for step in steps}
            return
        if not steps:
            return
        import torch

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are compiled and loaded before the capture
            for step in steps:
                make_step(self, step)
        torch.cuda.current_stream().wait_stream(side)
        pool = torch.cuda.graph_pool_handle()
        for step in steps:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                make_step(self, step)
            self._replay[step] = graph.replay

    def replay(self, step: int) -> None:
        """Make token number ``step``."""
        self._replay[step]()
