"""Give a question file without OCR tokens a line of them, read from its pictures."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        "make_ocr_tokens.py --questions questions.jsonl --image-root images --state-dir state "
        "--out questions_ocr.jsonl",
    )
    result.add_argument("--questions", type=Path, required=True, help="question_id, image, text")
    result.add_argument("--image-root", type=Path, required=True, help="folder of the pictures")
    result.add_argument("--out", type=Path, required=True, help="question file to write")
    result.add_argument("--state-dir", type=Path, required=True, help="where a killed run goes on")
    result.add_argument("--settings", default="{}", help="OCR settings, JSON or a path")
    result.add_argument("--threads", type=int, default=1, help="of the model")
    result.add_argument("--manifest", type=Path, help="manifest to write")
    return result


def main(args: argparse.Namespace) -> None:
    """Read the pictures."""
    from recap.evaluate.ocr import make_ocr_tokens
    from recap.settings import OcrSettings

    make_ocr_tokens(
        questions=args.questions,
        image_root=args.image_root,
        settings=parse_settings(OcrSettings, args.settings),
        out=args.out,
        state=args.state_dir,
        threads=args.threads,
        manifest=args.manifest,
    )


if __name__ == "__main__":
    run_cli(main, parser())
