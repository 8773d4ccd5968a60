# SPDX-License-Identifier: MIT
"""``fastlstm convert``: a model file of one framework's kind becomes that of another's."""

from .cli_arguments import check_writable, say
from .csvfile import InputError

__all__ = ["add_convert"]


def add_convert(commands):
    """Add the command to the subparsers ``commands``."""
    convert = commands.add_parser(
        "convert",
        help="turn a model file of one framework into that of another",
        description="Between .safetensors (fastlstm's own, or a PyTorch state dict), .keras, "
        ".onnx, .pt (a PyTorch state dict) and .json (RTNeural). The new file is run beside the "
        "old one.",
    )
    convert.add_argument("source", metavar="IN", help="the file to read")
    convert.add_argument("target", metavar="OUT", help="the file to write")
    convert.add_argument(
        "--head", choices=("last", "all"),
        help="what the dense layer of a PyTorch state dict reads: the last step, or all steps",
    )  # fmt: skip
    convert.set_defaults(run=_convert)


def _convert(arguments):
    from .convert import convert

    check_writable(arguments.target)
    try:
        report = convert(arguments.source, arguments.target, head=arguments.head)
    except (ValueError, TypeError, NotImplementedError, ImportError) as fault:
        raise InputError(fault) from fault
    members = getattr(report.model, "modules", [report.model])
    say(f"{arguments.source}: {report.model.flat.size} parameters, {report.model.dtype}")
    for member in members:
        say(f"  {member!r}")
    for note in report.notes:
        say(note)
    say(
        f"wrote {arguments.target}; largest difference on random input: {report.difference:.2g} "
        f"({report.runner} runs the new file, fastlstm the old one)"
    )
