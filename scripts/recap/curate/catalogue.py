"""Which of Data-Juicer's operators run here, as what, and why the others do not.

Read while the workflow is parsed: only names and files are looked at, nothing
of Data-Juicer is imported.
"""

from importlib.util import find_spec
from pathlib import Path

from ..errors import RecapError

CAPTIONERS = ("image_captioning_mapper", "recap_captioning_mapper")
# Their decisions can be explained record by record; see duplicates.py.
DEDUPLICATORS = (
    "document_deduplicator",
    "document_minhash_deduplicator",
    "document_simhash_deduplicator",
    "image_deduplicator",
)

_OTHERWISE = "Remove it, or run it with dj-process beforehand"
# What a record is made of here: one text and its pictures.
_FOREIGN = (
    ("video_", "works on videos, and records here have pictures"),
    ("audio_", "works on sound, and records here have pictures"),
    ("ray_", "needs a Ray cluster; the operator without `ray_` does the same here"),
    ("agent_", "works on dialogues of agents, not on captions"),
    ("dialog_", "works on dialogues, not on captions"),
)
_FAMILIES = (
    ("_selector", "chooses among all records at once by a field, and keeps no statistic"),
    ("_grouper", "puts several records into one"),
    ("_aggregator", "puts several records into one"),
    ("_pipeline", "needs a Ray cluster"),
)
_CANNOT_SPLIT = {
    "decides without a statistic, so it cannot be measured once and applied later": (
        "specified_field_filter",
        "specified_numeric_field_filter",
        "suffix_filter",
    ),
    "changes the number of records, and an id must stay one record": (
        "extract_event_mapper",
        "generate_qa_from_examples_mapper",
        "generate_qa_from_text_mapper",
        "latex_figure_context_extractor_mapper",
        "nlpaug_en_mapper",
        "nlpcda_zh_mapper",
        "text_chunk_mapper",
    ),
    "reads or writes fields that records here do not have": (
        "calibrate_qa_mapper",
        "calibrate_query_mapper",
        "calibrate_response_mapper",
        "detect_character_attributes_mapper",
        "detect_character_locations_mapper",
        "detect_main_character_mapper",
        "extract_entity_attribute_mapper",
        "extract_entity_relation_mapper",
        "extract_keyword_mapper",
        "extract_nickname_mapper",
        "extract_support_text_mapper",
        "extract_tables_from_html_mapper",
        "imgdiff_difference_area_generator_mapper",
        "imgdiff_difference_caption_generator_mapper",
        "llm_extract_mapper",
        "optimize_qa_mapper",
        "optimize_query_mapper",
        "optimize_response_mapper",
        "pair_preference_mapper",
        "query_intent_detection_mapper",
        "query_sentiment_detection_mapper",
        "query_topic_detection_mapper",
        "relation_identity_mapper",
        "text_tagging_by_prompt_mapper",
        "tool_success_tagger_mapper",
        "usage_counter_mapper",
        "vggt_mapper",
    ),
    "samples its text from a model without a seed; only the captioner may write text": (
        "mllm_mapper",
        "optimize_prompt_mapper",
        "pii_llm_suspect_mapper",
        "sdxl_prompt2prompt_mapper",
        "sentence_augmentation_mapper",
    ),
    "runs code that the recipe brings along": ("python_file_mapper", "python_lambda_mapper"),
    "reads or writes files beside the corpus, which stays as it is": (
        "download_file_mapper",
        "export_to_lerobot_mapper",
        "latex_merge_tex_mapper",
        "s3_download_file_mapper",
        "s3_upload_file_mapper",
    ),
    "removes lines that are frequent in the corpus, and a caption is one line": (
        "document_line_deduplicator",
    ),
}
_IMAGE_MAPPER = "writes pictures beside the corpus's, or fields that records here do not have"
# Packages outside the environment that an operator imports: module and package.
_PACKAGES = {
    "chinese_convert_mapper": ("opencc", "opencc"),
    "clean_html_mapper": ("selectolax", "selectolax"),
    "document_simhash_deduplicator": ("simhash", "simhash-pybind"),
    "fix_unicode_mapper": ("ftfy", "ftfy"),
    "image_face_count_filter": ("cv2", "opencv-contrib-python-headless"),
    "image_face_ratio_filter": ("cv2", "opencv-contrib-python-headless"),
    "image_subplot_filter": ("cv2", "opencv-contrib-python-headless"),
    "language_id_score_filter": ("fasttext", "fasttext-predict"),
    "perplexity_filter": ("kenlm", "kenlm"),
    "phrase_grounding_recall_filter": ("nltk", "nltk"),
    "sentence_split_mapper": ("nltk", "nltk"),
    "text_action_filter": ("spacy", "spacy"),
    "text_entity_dependency_filter": ("spacy", "spacy"),
}


def kind_of(name: str) -> str:
    """Return ``filter``, ``mapper``, ``deduplicator``, ``captioner``, or an empty string."""
    if name in CAPTIONERS:
        return "captioner"
    kind = name.rpartition("_")[2]
    return kind if kind in ("filter", "mapper", "deduplicator") else ""


def check_operator(name: str, source: str) -> None:
    """Refuse an operator that cannot run shard by shard, and say what to do.

    Args:
        name: the operator's name.
        source: where it stands, for the message.

    Raises:
        RecapError: if it cannot be split, does not exist, or lacks a package
            where Data-Juicer itself is installed.
    """
    if problem := _why_not(name):
        raise RecapError(f"{source}: {name} {problem}. {_OTHERWISE}")
    kind = kind_of(name)
    spec = find_spec("data_juicer")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    if kind == "captioner" or not roots:
        return
    if not any((root / "ops" / kind / f"{name}.py").is_file() for root in roots):
        raise RecapError(f"{source}: Data-Juicer has no operator {name!r}; check the spelling")
    module, package = _PACKAGES.get(name, ("data_juicer", ""))
    if find_spec(module) is None:
        raise RecapError(
            f"{source}: {name} needs the package {package}; install it into the environment "
            "(docs/recipes.md says how), or take the operator out of the recipe"
        )


def _why_not(name: str) -> str:
    named = {name: reason for reason, names in _CANNOT_SPLIT.items() for name in names}
    reasons = [reason for start, reason in _FOREIGN if name.startswith(start)]
    reasons += [reason for end, reason in _FAMILIES if name.endswith(end)]
    reasons += [named[name]] if name in named else []
    kind = kind_of(name)
    if not kind:
        reasons.append("is neither a filter, a mapper nor a deduplicator")
    if kind == "mapper" and name.startswith("image_"):
        reasons.append(_IMAGE_MAPPER)
    if kind == "deduplicator" and name not in DEDUPLICATORS:
        reasons.append(f"is not one of the deduplicators run here: {', '.join(DEDUPLICATORS)}")
    return reasons[0] if reasons else ""
