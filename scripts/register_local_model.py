"""Write the manifest of a model folder that is already on this machine."""

import argparse

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "register_local_model.py --model my-gemma --folder my/gemma "
        "--manifest resources/models/my-gemma/manifest.json --lock config/locks/models.tsv",
    )
    p.add_argument("--model", required=True, help="row of the models sheet")
    p.add_argument("--folder", required=True, help="folder of the model's files")
    p.add_argument("--manifest", required=True, help="the manifest to write")
    p.add_argument("--lock", help="lock sheet to verify the files by; none if the code holds them")
    return p


def main(args: argparse.Namespace) -> None:
    """Hash the folder's files."""
    from recap.fetch.files import describe_model

    describe_model(args.folder, args.manifest, args.model, args.lock)


if __name__ == "__main__":
    run_cli(main, parser())
