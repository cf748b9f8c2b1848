"""The MGM model: two vision towers, mining, projector and a causal language model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, CLIPVisionModel, PreTrainedModel
from transformers.utils import ModelOutput

from ..errors import RecapError
from .configuration import MGMConfig
from .conversation import IMAGE_TOKEN_INDEX
from .convnext import ConvNextTower
from .encoding import PROJECTOR_MODULES, mine_views, view_images
from .generation import greedy_decode
from .loss import loss_of_states
from .mining import build_unit
from .projector import build_projector
from .splicing import Layout, Spliced, mask_packed, splice, weave
from .trained_parts import connect_unused, set_trainable
from .vision import ClipTower


@dataclass
class MGMOutput(ModelOutput):
    """What the model returns.

    Attributes:
        loss: float32 scalar, with labels.
        logits: (B, L, vocabulary), without labels.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class MGMForCausalLM(PreTrainedModel):
    """MGM as one module.

    Weights held in float32 inside a model of a lower type (projector, mining,
    adapters while they are trained) are cast where they are used, so that the
    optimizer works on full precision without autocast.

    Attributes:
        observer: is shown the results of mining (``vlm_uni``) and of the projector,
            which no module's hook sees; for comparing two models step by step.
    """

    config: MGMConfig
    config_class = MGMConfig
    base_model_prefix = "mgm"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    observer: Callable[[str, torch.Tensor], None] | None = None

    def __init__(
        self,
        config: MGMConfig,
        language_model: Any = None,
        vision_tower: Any = None,
        vision_tower_aux: ConvNextTower | None = None,
    ) -> None:
        """Put the model together.

        Args:
            config: the configuration.
            language_model: a causal language model; fresh by default.
            vision_tower: a ``CLIPVisionModel``; fresh by default.
            vision_tower_aux: a ConvNeXt tower; fresh by default.
        """
        super().__init__(config)
        width, width_aux = config.vision_config.hidden_size, sum(config.convnext["dims"])
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        self.vision_tower = ClipTower(
            vision_tower or CLIPVisionModel(config.vision_config), config.mm_vision_select_layer
        )
        self.vision_tower_aux = vision_tower_aux or ConvNextTower(
            config.convnext["depths"], config.convnext["dims"], config.drop_path
        )
        self.mm_projector = build_projector(width, config.hidden_size)
        self.vlm_uni_query_projector = build_unit(width, width)
        self.vlm_uni_aux_projector = build_unit(width_aux, width)
        self.vlm_uni_val_projector = build_unit(width_aux, width)
        self.post_init()

    def init_weights(self) -> None:
        """Keep what the sub-modules brought: each is initialised where it is made."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's token embedding."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the language model's head."""
        return self.language_model.get_output_embeddings()

    def train(self, mode: bool = True) -> "MGMForCausalLM":
        """Switch modes; the frozen towers stay in evaluation mode.

        With ``drop_path`` above zero the auxiliary tower follows, as upstream's does.
        """
        super().train(mode)
        self.vision_tower.eval()
        if self.config.drop_path == 0:
            self.vision_tower_aux.eval()
        return self

    def set_trainable(self, stage: Literal["pretrain", "finetune"]) -> None:
        """Freeze what the stage does not train and hold the rest in float32.

        ``pretrain`` trains projector and mining. ``finetune`` trains them and
        the adapter, or the whole language model where there is no adapter.

        Raises:
            RecapError: for another stage.
        """
        set_trainable(self, stage, PROJECTOR_MODULES)

    def encode_images(self, images_aux: torch.Tensor) -> torch.Tensor:
        """Return the visual embeddings of pictures, before the embedding scale.

        Args:
            images_aux: (B, 3, S, S), S = ``image_size_aux``: float32, normalised, or the
                uint8 pixels, which are normalised here.

        Returns:
            (B, N, hidden) in the towers' type, N = ``config.image_tokens``. With
            an image grid the whole picture's tokens come first, then the crops'.
        """
        return mine_views(self, *view_images(self, images_aux))

    def scale_features(self, features: torch.Tensor) -> torch.Tensor:
        """Scale image features like the token embeddings.

        Gemma multiplies the whole input sequence by sqrt(hidden). transformers
        5 does so inside the embedding layer, which image features never pass.

        Raises:
            RecapError: if a Gemma embedding does not say how it scales.
        """
        embedding = self.get_input_embeddings()
        features = features.to(embedding.weight.dtype)  # type: ignore[arg-type]
        scale = getattr(embedding, "embed_scale", None)
        if scale is not None:
            return features * torch.as_tensor(scale, device=features.device).to(features.dtype)
        if self.config.text_config.model_type == "gemma":
            raise RecapError(
                "this transformers version does not scale Gemma's embeddings where MGM expects "
                "it; use the pinned version"
            )
        return features

    def prepare_inputs(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        images_aux: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        padding_side: str | None = None,
        layout: Layout | None = None,
    ) -> Spliced:
        """Embed tokens and splice image features in; see :func:`splicing.splice`.

        Raises:
            RecapError: if pictures and image tokens differ in number.
        """
        if image_features is None and images_aux is not None and len(images_aux):
            image_features = self.encode_images(images_aux)
        if image_features is not None and len(image_features):
            image_features = self.scale_features(image_features)
        else:
            image_features = None
        texts = input_ids.masked_fill(input_ids == IMAGE_TOKEN_INDEX, 0)
        embeddings = self.get_input_embeddings()(texts)
        if layout is not None:
            return weave(layout, embeddings, image_features)
        return splice(
            *(input_ids, attention_mask, embeddings, image_features, labels),
            max_length=self.config.tokenizer_model_max_length,
            padding_side=padding_side or self.config.tokenizer_padding_side,
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        images_aux: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | float | None = None,
        layout: Layout | None = None,
    ) -> MGMOutput:
        """Return the loss, or the logits where there are no labels.

        Rows padded on the right need no mask for a loss: no real position sees a later
        one. Hence attention can use its causal kernel.

        Args:
            input_ids: (B, L) with -200 once a sample that has a picture.
            attention_mask: (B, L), non-zero at real tokens.
            labels: (B, L), -100 where nothing is trained.
            images_aux: (pictures, 3, S, S) in batch order.
            image_features: (pictures, N, hidden) of :meth:`encode_images`,
                instead of ``images_aux``.
            num_items_in_batch: what the summed loss is divided by; by default
                the supervised positions of this batch.
            layout: of the batch, made by whoever collates it, on the model's device and
                padded on the right; made here by default, for which a GPU waits.
        """
        left = layout is None and self.config.tokenizer_padding_side == "left"
        batch = self.prepare_inputs(
            input_ids, attention_mask, labels, images_aux, image_features, layout=layout
        )
        layout, head = batch.layout, self.get_output_embeddings()
        if layout.supervised is None or layout.targets is None:
            return MGMOutput(logits=head(self._decode(batch, batch.attention_mask)))
        hidden = self._decode(batch, batch.attention_mask if left else None)
        states = hidden.flatten(0, 1).index_select(0, layout.supervised)
        loss = loss_of_states(states, layout.targets, head, num_items_in_batch)
        return MGMOutput(loss=loss + connect_unused(self, PROJECTOR_MODULES))

    def _decode(self, batch: Spliced, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the decoder's output (R, L, hidden); without a mask, rows end in padding.

        Packed samples are told apart by their positions, which start anew (transformers'
        packed-sequence format). ``transformers`` would ask the GPU whether any do, and wait.
        """
        alike = mask is None and not batch.layout.packed
        config = self.language_model.config
        windowed = getattr(config, "sliding_window", None) is not None
        if mask is None and not alike and config._attn_implementation == "sdpa" and not windowed:
            mask = mask_packed(batch.position_ids)
        return self.language_model.model(
            inputs_embeds=batch.embeddings,
            attention_mask=mask,
            position_ids=None if alike else batch.position_ids,
            use_cache=False,
        ).last_hidden_state

    @torch.no_grad()
    def generate_answers(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_features: torch.Tensor | None = None,
        images_aux: torch.Tensor | None = None,
        *,
        eos_token_ids: tuple[int, ...],
        max_new_tokens: int = 16,
    ) -> list[list[int]]:
        """Answer a batch of prompts greedily.

        Args:
            input_ids: (B, L), padded on either side; left padding is used inside.
            attention_mask: (B, L), non-zero at real tokens.
            image_features: see :meth:`forward`.
            images_aux: see :meth:`forward`.
            eos_token_ids: ids that end an answer, see :func:`conversation.stop_token_ids`.
            max_new_tokens: longest answer in tokens.

        Returns:
            The new token ids of each prompt, the ending one included.
        """
        batch = self.prepare_inputs(
            input_ids, attention_mask, None, images_aux, image_features, padding_side="left"
        )
        return greedy_decode(self.language_model, batch, max_new_tokens, eos_token_ids)
