"""The 120 contractions of the VQA answer normaliser, built from their rules.

The table is that of the VQA evaluation code as used by M4C and LLaVA. Most keys
are the value without apostrophes; the rest follow a few patterns, slips of the
original (``somebody'd``) and keys that can never match (``Im``) included.
"""

_REGULAR = """
    'twas ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's
    how'd how'll how's isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've
    o'clock oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll
    someone's something'd something'll that's there'd there're there's they'd they'll they're
    they've wasn't we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll
    you're you've
"""

_ODD = {
    "somebody'd": "somebodyd",
    "somebodyd've": "somebody'd've",
    "somebody'dve": "somebody'd've",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "let's": "let's",
    "she's": "she's",
    "Im": "I'm",
    "Ive": "I've",
    "Id've": "I'd've",
    "I'dve": "I'd've",
}


def regular_contractions() -> dict[str, str]:
    """Return the 73 entries whose key is the value without apostrophes."""
    return {value.replace("'", ""): value for value in _REGULAR.split()}


def irregular_contractions() -> dict[str, str]:
    """Return the 47 other entries."""
    table = dict(_ODD)
    for stem in ("could", "had", "might", "should", "would"):
        table[f"{stem}n'tve"] = table[f"{stem}nt've"] = f"{stem}n't've"
    for stem in ["he", "it", "she", "someone", "something", "there", "they", "we", "who", "you"]:
        table[f"{stem}d've"] = table[f"{stem}'dve"] = f"{stem}'d've"
    return table


CONTRACTIONS = regular_contractions() | irregular_contractions()
