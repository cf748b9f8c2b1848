"""Every measure by name: what it is called, how it is shown, how it was taken."""

from dataclasses import dataclass

from ..settings import QualitySettings
from .diversity import DRAWS, MTLD_THRESHOLD, WINDOW
from .duplicates import BANDS, ROWS, SHINGLE, SIMILARITY
from .repetition import CHARACTER_NGRAM, LONGEST_PHRASE, TIMES

WORD_COUNTER = "words by whitespace (str.split) of the bare caption"
TOKEN_COUNTER = r"alphabetic tokens: \b[a-zA-Z]+\b, lower-case"  # noqa: S105


@dataclass(frozen=True)
class Measure:
    """A measure as a reader meets it.

    Attributes:
        name: key in every document.
        label: in tables and sentences.
        protocol: counter and definition, printed beside the number.
        decimals: shown.
        percent: whether it is a share that is shown in per cent.
        faults: whether it belongs with repetition and fit rather than length and diversity.
        grows: whether it depends on the number of records, so that only equal
            ids may be compared.
    """

    name: str
    label: str
    protocol: str
    decimals: int = 3
    percent: bool = False
    faults: bool = False
    grows: bool = False


def catalogue(settings: QualitySettings) -> dict[str, Measure]:
    """Return every measure, in the order of the tables."""
    budget = f"{settings.token_budget:,}".replace(",", " ")
    measures = [
        Measure("words", "words a caption", f"mean of {WORD_COUNTER}", 2),
        Measure("characters", "characters a caption", "mean of len() of the bare caption", 1),
        Measure(
            "mtld",
            "MTLD",
            f"threshold {MTLD_THRESHOLD}, both directions averaged; {TOKEN_COUNTER}, captions in "
            "corpus order",
            1,
        ),
        Measure(
            f"mattr_{WINDOW}",
            f"MATTR({WINDOW})",
            f"mean type-token ratio of all windows of {WINDOW} tokens; {TOKEN_COUNTER}, captions "
            "in corpus order",
        ),
        Measure(
            f"hdd_{DRAWS}",
            "HD-D",
            f"expected type-token ratio of {DRAWS} tokens drawn without replacement; "
            f"{TOKEN_COUNTER}",
        ),
        Measure(
            "ttr_at_budget",
            f"types a token at {budget}",
            f"mean type-token ratio of disjoint random draws of records, each cut at exactly "
            f"{budget} tokens; {TOKEN_COUNTER}",
        ),
        Measure(
            "word_repetition",
            "repeated words",
            "mean share of a caption's words that occur in it more than once; lower-case words "
            "of the bare caption, punctuation and digits trimmed",
            2,
            percent=True,
            faults=True,
        ),
        Measure(
            "character_repetition",
            "repeated characters",
            f"mean char_rep_ratio of Data-Juicer with {CHARACTER_NGRAM}-grams, on the bare caption",
            2,
            percent=True,
            faults=True,
        ),
        Measure(
            "degenerate",
            "degenerate captions",
            f"share of captions that say a phrase of 1 to {LONGEST_PHRASE} words {TIMES} times "
            "in a row",
            2,
            percent=True,
            faults=True,
        ),
        Measure(
            "exact_duplicates",
            "exact duplicates",
            "share of records whose caption another record has too, case and spaces apart",
            2,
            percent=True,
            faults=True,
            grows=True,
        ),
        Measure(
            "near_duplicates",
            "near duplicates",
            f"share of records whose caption nearly equals a different one: Jaccard index of the "
            f"sets of character {SHINGLE}-grams at least {SIMILARITY}; candidates by MinHash, "
            f"{BANDS} bands of {ROWS}",
            2,
            percent=True,
            faults=True,
            grows=True,
        ),
        Measure(
            "similarity",
            "similarity",
            "mean cosine of picture and the caption trained on, by the configured model",
            faults=True,
        ),
        Measure(
            "similarity_shift",
            "similarity shift",
            "mean over records of the cosine of the caption trained on, less that of the "
            "original one",
            faults=True,
        ),
    ]
    return {measure.name: measure for measure in measures}


def method(settings: QualitySettings) -> str:
    """Return how the intervals were made, in one sentence."""
    return (
        f"{100 * settings.confidence:g}% bootstrap intervals over records, "
        f"{settings.bootstrap_samples} resamples, seed {settings.seed}; MTLD resamples blocks "
        "of consecutive records four mean factors long, MATTR blocks two windows long, the "
        "type-token ratio its draws, HD-D its jackknife pseudo-values."
    )
