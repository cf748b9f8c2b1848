"""The arguments of ``transformers.Trainer``."""

from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from .schedule import StepPlan


def training_arguments(
    output_dir: Path, plan: StepPlan, *, seed: int, use_cpu: bool, **optimizer: Any
) -> TrainingArguments:
    """Return the trainer's arguments for one flat pass over the given updates.

    To the trainer an update is one batch; :mod:`.passes` cuts it, and the loader starts
    where a checkpoint ended.

    AdamW with betas 0.9/0.999 and epsilon 1e-8 on float32 parameters, cosine to
    zero; no mixed-precision wrapper, as the model casts trained weights where it
    uses them.
    """
    extra: dict[str, Any] = {"ddp_backend": "gloo"} if use_cpu and plan.world_size > 1 else {}
    args = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        lr_scheduler_type="cosine",
        warmup_steps=plan.warmup_updates,
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        seed=seed,
        use_cpu=use_cpu,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        ignore_data_skip=True,
        **optimizer,
        **extra,
    )
    if args.device.type == "cuda":
        # One process drives one device; more of them are for a launcher, not for DataParallel.
        args._n_gpu = 1
    return args
