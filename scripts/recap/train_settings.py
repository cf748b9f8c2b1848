"""Typed settings of training; see :mod:`.settings`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .settings import Auto, Dtype, Settings

# They fit a run to its machine and change no update, rounding and dropout masks apart: under others
# a finished run stays as it is, and one that was stopped goes on from its checkpoint.
FREE_SETTINGS = {
    "micro_batch_size",
    "gradient_checkpointing",
    "compile_blocks",
    "memory_gib",
    "shard_base",
    "save_steps",
}


class LoraSettings(Settings):
    """The adapter of stage 2 (rank, alpha and dropout as in the reference run)."""

    rank: int = Field(
        16,
        ge=1,
        description="rank r of the update; weights, gradients and moments of the adapter, 16 bytes "
        "a number, grow with it",
    )
    alpha: float = Field(32, gt=0, description="the update is scaled by alpha / r, a pure number")
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the adapter's inputs set to zero while training; costs a mask of the "
        "activations' size, and makes the trajectory depend on the micro-batch",
    )
    use_rslora: bool = Field(
        False, description="rsLoRA: scale by alpha / sqrt(r) instead; costs nothing"
    )
    use_dora: bool = Field(
        False,
        description="DoRA: train the length of each row of the weights besides; a norm of every "
        "adapted weight a pass, so slower, with more memory for activations",
    )
    rank_pattern: dict[str, int] = Field(
        default={},
        description="ranks that differ: end of a module's name, or a regular expression, to rank",
    )
    alpha_pattern: dict[str, float] = Field(
        default={}, description="alphas that differ, by module as in `rank_pattern`"
    )


class StageSettings(Settings):
    """One training stage."""

    global_batch_size: int = Field(
        ge=1,
        description="samples an optimizer update, over all passes and ranks; no effect on memory",
    )
    micro_batch_size: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="samples a forward pass and rank; activations grow with it, and up to a point "
        "samples/s do. `auto` measures which is fastest within `memory_gib`. Halved by itself "
        "where the GPU's memory runs out. No choice changes the updates, dropout masks apart",
    )
    learning_rate: float = Field(
        gt=0, description="peak learning rate, reached after the warm-up, then a cosine to zero"
    )
    warmup_ratio: float = Field(
        0.03, ge=0, le=1, description="share of the updates over which the learning rate rises"
    )
    weight_decay: float = Field(
        0.0, ge=0, description="AdamW weight decay, a share of the weight times the learning rate"
    )
    max_grad_norm: float = Field(
        1.0, ge=0, description="gradients are scaled down to this 2-norm; 0 switches it off"
    )
    epochs: int = Field(1, ge=1, description="passes over the training set; time grows with it")
    max_length: int = Field(
        2048,
        ge=8,
        description="longest sequence in tokens, image tokens included; longer samples are cut. "
        "Only a bound: memory and time follow the longest sample of each pass",
    )
    image_aspect_ratio: Literal["square", "pad"] = Field(
        description="`square` crops the centre, `pad` keeps the whole image; equal cost"
    )
    group_by_modality_length: bool = Field(
        False,
        description="never mix image and text-only samples in an update; within an update, passes "
        "hold samples of like length in any case",
    )
    dtype: Dtype = Field(
        "bfloat16",
        description="type of frozen weights and activations; float32 takes twice the memory and "
        "more than twice the time on a GPU. Trained weights are float32 in any case",
    )
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="stochastic depth of the frozen ConvNeXt while training; upstream's is 0.1",
    )
    gradient_checkpointing: Auto | bool | Annotated[float, Field(gt=0, lt=1)] = Field(
        "auto",
        description="keep the decoder layers' inputs alone and compute the rest again in the "
        "backward pass: far less memory for about a third more time; a number is the share of the "
        "layers that do so. `auto` measures what is fastest within `memory_gib`; on a CPU, none",
    )
    compile_blocks: Auto | bool = Field(
        "auto",
        description="compile decoder layers and towers with torch.compile: a quarter "
        "less time a pass, a minute at the start, and other rounding. `auto` does so on a GPU",
    )
    memory_gib: float = Field(
        24.0,
        gt=0,
        description="GPU memory in GiB that a rank may reserve, of what the card has; no effect on "
        "a CPU",
    )
    shard_base: bool = Field(
        False,
        description="cut the frozen decoder layers over the ranks, for 7B and 13B: each holds its "
        "share of them and gathers a layer when it is computed, which costs time, least within a "
        "node. Needs numbers for `micro_batch_size` and `gradient_checkpointing`; no effect on one "
        "rank. Changes no result",
    )
    logging_steps: int = Field(
        1, ge=1, description="updates between lines of telemetry.jsonl; spikes are always in it"
    )
    save_steps: int = Field(
        50,
        ge=1,
        description="updates between resumable checkpoints, which hold what is trained and its "
        "moments, 12 bytes a number; a killed run repeats at most so many updates and the one "
        "under way",
    )

    @model_validator(mode="after")
    def _shared_passes_are_given(self) -> "StageSettings":
        names = ("micro_batch_size", "gradient_checkpointing")
        missing = [f"`{name}`" for name in names if getattr(self, name) == "auto"]
        if self.shard_base and missing:
            raise ValueError(
                f"`shard_base` needs a value for {' and '.join(missing)}: `auto` tries what does "
                "not fit, after which ranks that share their weights cannot go on"
            )
        return self


class FinetuneSettings(StageSettings):
    """Stage 2: instruction tuning with LoRA."""

    packing: bool = Field(
        True,
        description="let short samples share a row, up to the longest sample's length, where no "
        "sample sees another; saves time where there are short samples. A row of several "
        "pictures takes more memory, which `auto` measures. The updates stay as they were, "
        "dropout masks apart",
    )
    lora: LoraSettings = LoraSettings()
    base_quantization: Literal["none", "nf4"] = Field(
        "none",
        description="`nf4`: QLoRA, the frozen language model's linear layers in 4 bits, a quarter "
        "of bfloat16's memory and slower; needs the package bitsandbytes. The adapter is merged "
        "into the unquantised weights",
    )

    @model_validator(mode="after")
    def _shares_are_not_quantised(self) -> "FinetuneSettings":
        if self.base_quantization != "none" and self.shard_base:
            raise ValueError(
                "4-bit weights lose their scales when they are cut over ranks; use `shard_base` "
                "with `base_quantization: none`, or `nf4` with `shard_base: false`"
            )
        return self

    @model_validator(mode="after")
    def _lengths_need_full_weights(self) -> "FinetuneSettings":
        if self.base_quantization != "none" and self.lora.use_dora:
            raise ValueError(
                "DoRA starts from the lengths of unquantised weights; use it with "
                "`base_quantization: none`"
            )
        return self


def free_settings(settings: StageSettings) -> str:
    """Return :data:`FREE_SETTINGS` as ``NAME=VALUE,NAME=VALUE``, a word without quotes."""
    values = settings.model_dump(mode="json", include=FREE_SETTINGS)
    return ",".join(f"{name}={str(value).lower()}" for name, value in values.items())


class TrainSettings(Settings):
    """Both stages of a run."""

    pretrain: StageSettings
    finetune: FinetuneSettings
    tracker: Literal["none", "tensorboard", "wandb"] = Field(
        "tensorboard",
        description="what a run can be watched with, below `logs/<experiment>/tracking`; changes "
        "no result. `wandb` needs its package and stays offline",
    )
