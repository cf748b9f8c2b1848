"""Write the list of files that the comparison and the report read."""

import argparse

from recap.cli import load_settings, make_parser, run_cli
from recap.io import write_json


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "list_comparison_inputs.py --document inputs.json --out comparison_inputs.json",
    )
    p.add_argument("--document", required=True, help="the list, as JSON or a file's path")
    p.add_argument("--out", required=True, help="comparison_inputs.json")
    return p


def main(args: argparse.Namespace) -> None:
    """Validate the list against its schema and write it."""
    from recap.compare.inputs import ComparisonInputs

    document = ComparisonInputs.model_validate(load_settings(args.document))
    write_json(args.out, document.model_dump(mode="json"))


if __name__ == "__main__":
    run_cli(main, parser())
