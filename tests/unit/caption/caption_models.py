"""Random captioners of a few thousand parameters, of every family."""

from pathlib import Path

WORDS = [f"w{index}" for index in range(60)]
END = 4  # the newline, as BLIP2-OPT


def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "</s>", "<unk>", "<image>", "\n", *WORDS]
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


def text_config(kind: str) -> dict:
    from transformers import LlamaConfig, OPTConfig, T5Config

    size = len(WORDS) + 5
    if kind == "opt":
        return OPTConfig(
            vocab_size=size,
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=32,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=END,
            pad_token_id=0,
        ).to_dict()
    if kind == "llama":
        return LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=1,
            eos_token_id=END,
            pad_token_id=0,
        ).to_dict()
    return T5Config(
        vocab_size=size,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        eos_token_id=END,
        pad_token_id=0,
        decoder_start_token_id=0,
    ).to_dict()


def build(folder: Path, family: str = "blip-2", text: str = "opt") -> Path:
    """Save a random model with the real file layout; its captions depend on the image."""
    import torch
    import transformers
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    query = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "encoder_hidden_size": 32,
        "vocab_size": 65,
    }
    name = {"blip-2": "Blip2", "instructblip": "InstructBlip"}[family]
    config = getattr(transformers, f"{name}Config")(
        vision_config=vision,
        qformer_config=query,
        text_config=text_config(text),
        num_query_tokens=4,
        image_token_index=3,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1:
            scale = 1.0 if "query_tokens" in key else 0.3
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if family == "instructblip":
        tokenizer().save_pretrained(folder / "qformer_tokenizer")
    BlipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
