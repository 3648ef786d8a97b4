"""The commands and their arguments. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from thbench.config.search import searching
from thbench.core.errors import UserError, did_you_mean

EPILOG = """\
examples:
  thbench demo                                      the whole bench, small, in minutes
  thbench data synth                                make the synthetic data set
  thbench check dawn                                what stands against training it
  thbench fit dawn                                  train what DAWN still lacks
  thbench eval dawn                                 generate the test split and score it
  thbench generate dawn --image me.jpg --audio hello.wav -o hello.mp4
  thbench leaderboard                               build the tables
"""
CONFIG_DIR = "--config-dir"
CONFIG_DIR_HELP = (
    "a folder laid out as configs/ (strategy/, data/, protocol/), searched before it; may be"
    " repeated, and $THBENCH_CONFIG_DIR names more"
)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OVERRIDES = "configuration as key=value: scale=small data=hdtf trainer.devices=8 plan.name=sar"

IDENTITY = (
    "who is seen, for kind folder: a level of folders (1 first below DIR, -1 the file's own), file"
    " (its name), or a regular expression with one group (default 1)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit code: 0, 2 for what the user can put right (one line on stderr), 130 when interrupted.
    """
    try:
        words, folders = take_config_dirs(sys.argv[1:] if argv is None else argv)
        with searching(folders):
            _run(parse(words))
    except UserError as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if not error.filename and error.errno not in DISK:
            raise
        return _fail(f"{error.strerror}: {error.filename or 'while writing'}.", 2)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on.", 130)
    return 0


def take_config_dirs(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without ``--config-dir DIR``, which may stand anywhere, and its folders in order.

    Raises:
        UserError: no folder follows.
    """
    words, folders, left = [], [], iter(argv)
    for word in left:
        name, sign, folder = word.partition("=")
        if name != CONFIG_DIR:
            words.append(word)
            continue
        folder = folder if sign else next(left, "")
        if not folder:
            raise UserError(f"{CONFIG_DIR}: expected one argument. See `thbench --help`.")
        folders.append(folder)
    return words, folders


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    ``key=value`` words, and names where a command takes any number, may stand anywhere after it.
    """
    parser = build_parser()
    arguments, left = parser.parse_known_args(argv)
    takes_words = hasattr(arguments, "overrides")
    words = [w for w in left if takes_words and "=" in w and not w.startswith("-")]
    takes_names = hasattr(arguments, "strategies")
    names = [w for w in left if takes_names and "=" not in w and not w.startswith("-")]
    wrong = [w for w in left if w not in (*words, *names)]
    if wrong:
        options = [o for a in arguments.parser._actions for o in a.option_strings]
        hint = did_you_mean(wrong[0], options) if wrong[0].startswith("-") else ""
        raise UserError(
            f"'{wrong[0]}' is not understood here.{hint} See `{arguments.parser.prog} --help`."
        )
    if takes_words:
        arguments.overrides = [*arguments.overrides, *words]
    if takes_names:
        arguments.strategies = [*arguments.strategies, *names]
    return arguments


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest word where there is one."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        choice = re.fullmatch(r".*: invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            hint = did_you_mean(choice[1], re.findall(r"'([^']*)'", choice[2]))
            message = f"'{choice[1]}' is not understood here.{hint}"
        end = "" if message[-1] in ".?" else "."
        raise UserError(f"{message}{end} See `{self.prog} --help`.")


def _add_config_dir(parser: argparse.ArgumentParser) -> None:
    """For the help alone: ``take_config_dirs`` has taken it out, wherever it stood."""
    parser.add_argument(CONFIG_DIR, metavar="DIR", default=argparse.SUPPRESS, help=CONFIG_DIR_HELP)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = _Parser(
        prog="thbench",
        description="Compare generation strategies for audio-driven talking-head video.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(parser=parser)
    _add_config_dir(parser)
    parser.add_argument("--version", action="version", version=f"thbench {version('thbench')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _check(commands)
    _fit(commands)
    _eval(commands)
    _generate(commands)
    _montage(commands)
    _score(commands)
    _leaderboard(commands)
    _compare(commands)
    _reproduce(commands)
    _data(commands)
    _zoo(commands)
    _weights(commands)
    _ls(commands)
    _config(commands)
    _demo(commands)
    return parser


Commands = argparse._SubParsersAction


def _command(commands: Commands, name: str, run: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
    )
    _add_config_dir(parser)
    parser.set_defaults(parser=parser, run=run)
    return parser


def _strategy_command(
    commands: Commands, name: str, run: str, text: str
) -> argparse.ArgumentParser:
    parser = _command(commands, name, run, text)
    parser.add_argument("strategy", help="a name from `thbench ls strategies`, or a YAML file")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=OVERRIDES)
    return parser


def _fit(commands: Commands) -> None:
    parser = _strategy_command(
        commands, "fit", "thbench.cli.commands:fit", "train the stages that a strategy still lacks"
    )
    parser.epilog = (
        "Each stage goes on from its last checkpoint. stage=NAME trains one stage alone. A stage's"
        " folder is named by what determines its result, so strategies share what they share."
    )


def _check(commands: Commands) -> None:
    parser = _strategy_command(
        commands,
        "check",
        "thbench.cli.commands:check",
        "report all that stands against training and evaluation, before any step",
    )
    parser.epilog = (
        "Clips that each stage draws from, weights, audio, sizes, memory, time, disk, and what eval"
        " will measure. fit looks at the same before it trains. stage=NAME checks one stage and"
        " what it builds on. The exit code is 2 where training cannot end well."
    )
    parser.add_argument(
        "--manifest-only",
        action="store_true",
        help="judge by the manifest alone: the clips' files need not be here",
    )


def _eval(commands: Commands) -> None:
    parser = _strategy_command(
        commands,
        "eval",
        "thbench.cli.commands:evaluate",
        "generate a split, score it, and write a result",
    )
    parser.epilog = (
        "eval.data=NAME tests on another data set than the networks were trained on; plan=NAME"
        " and plan.OPTION=VALUE run trained networks in another order (labelled zero-shot)."
        " eval.seeds=[0,1,2] takes these seeds in place of the protocol's. Yardsticks are made of"
        " the same requests, so their rows stand in the strategy's table; all but shuffled need no"
        " trained network."
    )
    parser.add_argument(
        "--yardstick",
        choices=("still", "nearest", "shuffled", "ground-truth"),
        help="make a row to compare with instead: the portrait standing still, the training clip"
        " with the nearest portrait, the strategy's clips from another clip's audio, or the"
        " reference itself",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="mark the result as smoke, as at scale=tiny"
    )


def _generate(commands: Commands) -> None:
    parser = _strategy_command(
        commands,
        "generate",
        "thbench.cli.commands:generate",
        "generate one video from one portrait and one audio file",
    )
    parser.add_argument("--image", required=True, help="portrait: any image file with one face")
    parser.add_argument("--audio", required=True, help="speech: any file with audio")
    parser.add_argument("-o", "--out", required=True, help="the mp4 to write")
    parser.add_argument("--motion", help="a video whose head pose and blinks to follow")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same video (default 0)")
    parser.add_argument("--watermark", action="store_true", help="add a visible mark")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")


def _montage(commands: Commands) -> None:
    parser = _command(
        commands,
        "montage",
        "thbench.cli.commands:make_montage",
        "put videos of one clip beside each other, in step and with sound",
    )
    parser.add_argument(
        "videos", nargs="+", metavar="[TITLE=]FILE", help="a title is the file's name by default"
    )
    parser.add_argument("-o", "--out", required=True, help="the mp4 to write; the first's sound")
    parser.add_argument("--height", type=int, default=192, help="of each, in pixels (default 192)")
    parser.add_argument("--columns", type=int, help="videos in a row (default: by their number)")
    parser.add_argument("--note", default="", metavar="TEXT", help="a line below all of them")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")


def _score(commands: Commands) -> None:
    parser = _command(
        commands,
        "score",
        "thbench.cli.commands:score",
        "score a folder of videos, whatever generated them",
    )
    parser.add_argument("videos", metavar="DIR", help="the videos to score, found by name")
    parser.add_argument(
        "--reference", required=True, metavar="DIR", help="ground truth: prepared, or any videos"
    )
    parser.add_argument(
        "--protocol",
        help="see `thbench ls protocols` (default: synthetic for synthetic data, else dawn)",
    )
    parser.add_argument("--name", help="the row's name (default: the folder's)")
    parser.add_argument("--split", default="test", help="split of a prepared reference")
    parser.add_argument(
        "--by",
        metavar="COLUMN",
        help="also sum up within each value of a column of the reference's manifest",
    )
    parser.add_argument(
        "--ground-truth", action="store_true", help="also write the reference's own row"
    )
    parser.add_argument("--results", default="leaderboards/results", metavar="DIR")
    parser.add_argument(
        "--no-page",
        action="store_true",
        help="write no page with the videos beside their reference (default: one into"
        " <results>/page/<name>)",
    )


def _leaderboard(commands: Commands) -> None:
    parser = _command(
        commands, "leaderboard", "thbench.cli.commands:leaderboard", "build the tables from results"
    )
    parser.add_argument("--results", default="leaderboards/results", metavar="DIR")
    parser.add_argument("--out", default="leaderboards", metavar="DIR")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=(),
        metavar="NAME",
        help="only these columns, in this order (quote names with blanks); default all",
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        default=("md", "csv", "tex"),
        choices=("md", "csv", "tex", "html", "svg"),
        metavar="FORMAT",
        help="md, csv, tex (needs booktabs), html; svg: plots besides PNG; default md csv tex",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the measured tables as well, as wide as fits"
    )
    parser.add_argument(
        "--html",
        nargs="?",
        const="",
        metavar="DIR",
        help="also write a page with the videos side by side, to open without a server (default"
        " <out>/page)",
    )
    parser.add_argument(
        "--clips",
        type=int,
        default=8,
        metavar="N",
        help="clips of each table whose videos the page takes along (default 8)",
    )


def _reproduce(commands: Commands) -> None:
    parser = _command(
        commands,
        "reproduce",
        "thbench.cli.reproduce:reproduce",
        "run the rows of a paper's table, and print ours beside the published",
    )
    parser.epilog = (
        "What is trained and evaluated already is not done again, so the same command goes on where"
        " it was stopped. data=NAME and scale=NAME take another data set and smaller networks than"
        " the paper's: the header of ours says which."
    )
    parser.add_argument("table", nargs="?", help="a name from `thbench ls tables`, or a YAML file")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=OVERRIDES)
    parser.add_argument(
        "--rows", nargs="+", default=(), metavar="ROW", help="only these, as the paper prints them"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what is there, what is missing, and its cost"
    )
    parser.add_argument(
        "--list", action="store_true", help="all tables, row by row: how each is run, or why not"
    )


def _compare(commands: Commands) -> None:
    parser = _command(
        commands,
        "compare",
        "thbench.cli.compare:compare",
        "line results up: figures with paired differences, settings that differ, curves",
    )
    parser.epilog = (
        "Every other result is set against the first. Differences are over the clips that both"
        " have, with intervals of 95 %; results tie where that of a difference holds 0. Results of"
        " other protocols, data or clips are refused."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RESULT", help="a name in the folder of results, or a JSON file"
    )
    parser.add_argument("--results", default="leaderboards/results", metavar="DIR")
    parser.add_argument(
        "--wandb", action="store_true", help="the words are W&B runs of eval, entity/project/id"
    )
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("-o", "--out", metavar="FILE", help="draw the curves over time (png)")


def _data(commands: Commands) -> None:
    parser = commands.add_parser("data", help="make, prepare and check data sets")
    parser.set_defaults(parser=parser)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    synth = _command(actions, "synth", "thbench.cli.data:synth", "render the synthetic data set")
    synth.add_argument("--out", default="data/synthetic", metavar="DIR")
    synth.add_argument("--identities", type=int, default=400, help="faces in all (default 400)")
    synth.add_argument("--clips", type=int, default=1, help="clips of each face (default 1)")
    synth.add_argument("--seconds", type=float, default=4.0, help="length of a clip (default 4)")
    synth.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    synth.add_argument(
        "--liveliness",
        type=float,
        default=1.0,
        help="how far heads turn, 0 to 1; filmed speakers are near 0.5 (default 1)",
    )
    synth.add_argument("--seed", type=int, default=0)
    synth.add_argument(
        "--test-only", action="store_true", help="all faces are test people: to measure on"
    )
    synth.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    prepare = _command(
        actions,
        "prepare",
        "thbench.cli.data:prepare",
        "turn talking-head videos into the prepared layout",
    )
    prepare.add_argument(
        "kind",
        metavar="KIND",
        help="folder, cremad, hdtf, voxceleb, lrw, mead, celebvhq or vfhq",
    )
    prepare.add_argument("source", metavar="DIR", help="where the videos are")
    prepare.add_argument("--out", required=True, metavar="DIR")
    prepare.add_argument("--identity", metavar="LEVEL", help=IDENTITY)
    prepare.add_argument(
        "--split",
        metavar="A/B/C",
        help="deal people anew to train, val and test, in per cent: 70/10/20 (by default the"
        " data set's published split, else 80/10/10)",
    )
    prepare.add_argument(
        "--allow-silent",
        action="store_true",
        help="prepare videos without an audio track too, for stages that need no sound",
    )
    prepare.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    prepare.add_argument("--audio", default="logmel", help="encoders, by comma (default logmel)")
    prepare.add_argument(
        "--crop",
        default="face",
        choices=("face", "align", "pad", "none"),
        help="one square around the head (default); every frame moved so that eyes and nose stay in"
        " one place; the whole frame with black bars; or the whole frame, which must be square",
    )
    prepare.add_argument(
        "--face",
        default="largest",
        choices=("largest", "speaking", "only"),
        help="whom to take of several: the largest face (default), the one whose mouth moves with"
        " the audio, or no video with more than one",
    )
    prepare.add_argument(
        "--shots",
        default="longest",
        choices=("longest", "all"),
        help="of videos with hard cuts the longest shot (default), since others may show other"
        " people, or all",
    )
    prepare.add_argument("--track", type=int, metavar="N", help="audio track to take, from 1")
    prepare.add_argument(
        "--min-seconds", type=float, default=1.0, help="drop shorter clips (default 1)"
    )
    prepare.add_argument("--max-seconds", type=float, help="cut longer clips into equal parts")
    prepare.add_argument(
        "--sheet",
        action="store_true",
        help="write contact sheets: a frame of each clip, and of all that was left out, with why",
    )
    prepare.add_argument("--limit", type=int, help="take only so many videos, evenly from all")
    prepare.add_argument("--seed", type=int, default=0, help="of the split")
    prepare.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    check = _command(
        actions,
        "check",
        "thbench.cli.data:check",
        "verify a prepared data set, file by file",
    )
    check.add_argument("root", metavar="DIR")
    check.add_argument("--no-faces", dest="faces", action="store_false",
                       help="do not compare the faces of people in different splits")  # fmt: skip
    faces = _command(
        actions,
        "morphable",
        "thbench.cli.data:fit_morphable",
        "fit a morphable model to a data set's faces; measure its vertex error on held-out ones",
    )
    faces.add_argument("root", metavar="DIR", help="a prepared data set")
    faces.add_argument("--out", metavar="FILE", help="keep it here (.safetensors)")
    faces.add_argument("--model", metavar="FILE", help="measure this one instead: such a file, or a"
                       " BFM (.mat)")  # fmt: skip
    faces.add_argument("--split", default="test", help="held-out split (default test)")
    faces.add_argument("--identity", type=int, default=80, help="coefficients (default 80)")
    faces.add_argument("--expression", type=int, default=64, help="coefficients (default 64)")


def _weights(commands: Commands) -> None:
    parser = commands.add_parser(
        "weights",
        help="list, fetch and verify the published weights that metrics need; import systems'",
    )
    parser.set_defaults(parser=parser)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _command(
        actions, "list", "thbench.cli.weights:show", "list weight files and whether they are here"
    )
    pull = _command(
        actions, "pull", "thbench.cli.weights:pull", "download weights; resumable, checked"
    )
    pull.add_argument("names", nargs="*", metavar="NAME", help="see `thbench weights list`")
    pull.add_argument("--all", action="store_true", help="all of them")
    pull.add_argument(
        "--mirror",
        metavar="URL",
        help="an address below which the files lie under their own names, tried first"
        " (default $THBENCH_MIRROR)",
    )
    check = _command(actions, "check", "thbench.cli.weights:check", "verify hashes of what is here")
    check.add_argument("names", nargs="*", metavar="NAME", help="these alone, which must be here")
    imported = _command(
        actions,
        "import",
        "thbench.cli.weights:import_released",
        "write runs with the weights that a system's authors published",
    )
    imported.usage = "thbench weights import SYSTEM FILE... [key=value ...]"
    imported.epilog = (
        "Files are read for their tensors alone; no code in them is run. Names and shapes must be"
        " those of the networks with options=released, or nothing is imported. The runs are named"
        " by the data set, as trained ones are: say data=NAME as for generate and eval. Example:"
        " thbench weights import dawn LFG_128_1000ep.pth DAWN_128.pth data=hdtf"
    )
    imported.add_argument(
        "system", metavar="SYSTEM", help="a strategy whose authors published weights, such as dawn"
    )
    imported.add_argument(
        "given",
        nargs="+",
        metavar="FILE",
        help="what torch.save wrote, .safetensors, or a TorchScript archive; and key=value words"
        " of the configuration, which stand above the system's own, such as options=released",
    )


def _zoo(commands: Commands) -> None:
    parser = commands.add_parser(
        "zoo", help="list the strategies' trained weights that are shipped, or train them anew"
    )
    parser.set_defaults(parser=parser)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = _command(
        actions,
        "list",
        "thbench.cli.zoo:show",
        "list the strategies' trained weights that are shipped with thbench",
    )
    show.epilog = (
        "generate and eval use them where a stage is not trained here. Weights of the networks that"
        " metrics read are another thing: `thbench weights list`."
    )
    show.add_argument("--json", action="store_true", help="all that is known of each, as JSON")
    _zoo_train(actions)
    add = _strategy_command(
        actions, "add", "thbench.cli.zoo:add", "put a strategy's trained stages among them"
    )
    add.epilog = "For developers: it writes into the package. stage=NAME adds one stage alone."
    add.add_argument(
        "--dtype",
        default="float16",
        choices=("float16", "float32"),
        help="of parameters; buffers keep theirs (default float16)",
    )


def _zoo_train(actions: Commands) -> None:
    parser = _command(
        actions,
        "train",
        "thbench.cli.zoo_train:train",
        "make the shipped weights anew on this machine, and compare them with those shipped",
    )
    parser.epilog = (
        "For each strategy that is shipped whole at scale=small: renders its data set if it is not"
        " here, trains all its stages into runs/, evaluates them on the test people, and compares"
        " values clip by clip with the result of the shipped weights. Everything goes on where it"
        " stopped when the command is run again. It takes hours on two cores: --dry-run says what"
        " is left. The result goes to runs/zoo-results."
    )
    parser.add_argument(
        "strategies",
        nargs="*",
        metavar="STRATEGY",
        help="shipped ones (default: all); and configuration as key=value, such as runs=DIR",
    )
    parser.add_argument(
        "--clips", type=int, metavar="N", help="evaluate on the first N test clips (default all)"
    )
    parser.add_argument("--no-eval", action="store_true", help="train alone")
    parser.add_argument(
        "--against",
        default="leaderboards/results",
        metavar="PATH",
        help="results of the shipped weights: a folder, or one file (default leaderboards/results)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what is there and what would be done"
    )
    parser.set_defaults(overrides=[])


def _ls(commands: Commands) -> None:
    parser = _command(
        commands,
        "ls",
        "thbench.cli.listing:ls",
        "list strategies, metrics, protocols, data sets or plans",
    )
    parser.add_argument(
        "kind", choices=("strategies", "metrics", "protocols", "data", "plans", "tables")
    )
    parser.add_argument(
        "--draw",
        nargs="?",
        const="",
        metavar="DIR",
        help="plans: a drawing of each, here or as png files in DIR",
    )
    parser.add_argument(
        "--params",
        action="store_true",
        help="strategies: parameters of each network's parts, at each scale",
    )


def _config(commands: Commands) -> None:
    _strategy_command(
        commands, "config", "thbench.cli.commands:show_config", "print the resolved configuration"
    )


def _demo(commands: Commands) -> None:
    parser = _command(
        commands, "demo", "thbench.cli.demo:demo", "run the whole bench, small, on synthetic data"
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="where (default demo)")


def _run(arguments: argparse.Namespace) -> None:
    if "run" not in arguments:
        arguments.parser.print_help()
        return
    module, function = arguments.run.split(":")
    getattr(importlib.import_module(module), function)(arguments)
    sys.stdout.flush()  # while a closed pipe can still be told from a fault


def _fail(message: str, code: int) -> int:
    print(f"thbench: {message}", file=sys.stderr)
    return code
