"""`HfArgumentParser`: dataclasses on the command line and from files, beside the reference's parser."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Union  # noqa: UP035 - as many scripts write them

import pytest
import transformers

from pellucid.errors import FileError, InputError, MissingDependencyError, UnknownArgumentError
from pellucid.training.argument_parser import HfArgumentParser
from pellucid.training.argument_tables import FIXED, GONE, RENAMED, SWITCHES
from pellucid.training.argument_words import read_words
from pellucid.training.arguments import Seq2SeqTrainingArguments, TrainingArguments


class Color(Enum):
    RED = "red"
    BLUE = "blue"
    TWO = 2


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Plain:
    foo: int
    bar: float
    baz: str
    flag: bool


@dataclass
class Defaults:
    count: int = 42
    rate: float = 0.5
    name: str = field(default="toto", metadata={"help": "how it is called"})
    long_name_of_it: str = "x"


@dataclass
class Switches:
    foo: bool = False
    baz_boo: bool = True
    opt: bool | None = None
    sure: Optional[bool] = True  # noqa: UP045


@dataclass
class Options:
    foo: Optional[int] = None  # noqa: UP045
    bar: float | None = field(default=None, metadata={"help": "help message"})
    baz: str | None = None
    ces: Optional[List[str]] = field(default_factory=list)  # noqa: UP006, UP045
    des: list[int] | None = None
    mixed: Union[int, str] = 3  # noqa: UP007


@dataclass
class Choices:
    color: Color = "red"  # type: ignore[assignment]
    size: Size = Size.SMALL
    literal: Literal["titi", "toto", 42] = "toto"
    perhaps: Literal["a", "b"] | None = None
    picked: int = field(default=1, metadata={"choices": [1, 2, 3]})

    def __post_init__(self) -> None:
        self.color = Color(self.color)


@dataclass
class Lists:
    empty: list[int] = field(default_factory=list)
    ints: list[int] = field(default_factory=lambda: [1, 2, 3])
    texts: list[str] = field(default_factory=lambda: ["Hallo", "Bonjour"])
    floats: List[float] = field(default_factory=lambda: [0.1])  # noqa: UP006
    colors: list[Color] = field(default_factory=list)


@dataclass
class Needed:
    names: list[str]
    color: Color
    literal: Literal["x", "y"]
    path: Path = field(default=Path("here"), metadata={"aliases": ["--place", "-p"], "help": "where"})
    price: Decimal = field(default=Decimal("1.5"), metadata={"aliases": "--cost"})
    inside: int = field(default=3, init=False)


CASES: list[tuple[type[Any], str]] = [
    (Plain, "--foo 1 --bar 0.5 --baz quux"),
    (Plain, "--foo -1 --bar 1 --baz=a=b --flag"),
    (Plain, "--foo 1 --bar 1e-3 --baz --flag=no x"),
    (Plain, "--foo 1 --bar -.5 --baz x --flag FALSE"),
    (Plain, "--foo 1 --bar 2 --baz 3 --flag t --foo 5"),
    (Plain, "--foo 1 --bar 2"),
    (Plain, "--foo one --bar 2 --baz x"),
    (Plain, "--foo 1.5 --bar 2 --baz x"),
    (Plain, "--foo 1 --bar x --baz x"),
    (Plain, "--foo 1 --bar 2 --baz x --flag maybe"),
    (Defaults, ""),
    (Defaults, "--count 7 --rate 3 --name none --long-name-of-it y"),
    (Defaults, "--long_name_of_it -1"),
    (Defaults, "--long_name_of_it"),
    (Switches, ""),
    (Switches, "--foo --no_baz_boo"),
    (Switches, "--foo --no-baz-boo --no_sure"),
    (Switches, "--foo False --baz_boo False --opt False --no-sure"),
    (Switches, "--foo True --baz_boo True --opt True"),
    (Switches, "--foo 1 --baz-boo 0 --opt yes --sure no"),
    (Switches, "--foo y --baz_boo n --opt f"),
    (Switches, "--baz_boo --sure"),
    (Switches, "--no_foo"),
    (Switches, "--opt 2"),
    (Options, ""),
    (Options, "--foo 12 --bar 3.14 --baz 42 --ces a b c --des 1 2 3 --mixed 5"),
    (Options, "--baz none --ces a --des -1 2"),
    (Options, "--des 1 x"),
    (Options, "--ces"),
    (Choices, ""),
    (Choices, "--color blue --size large --literal titi --perhaps b --picked 2"),
    (Choices, "--color 2 --literal 42"),
    (Choices, "--color green"),
    (Choices, "--color RED"),
    (Choices, "--literal 43"),
    (Choices, "--size tiny"),
    (Choices, "--picked 4"),
    (Choices, "--perhaps c"),
    (Lists, ""),
    (Lists, "--empty 1 --ints 2 3 --texts a b c --floats 0.1 7 --colors red blue"),
    (Lists, "--texts a,b c --floats 1"),
    (Lists, "--colors green"),
    (Needed, "--names a b --color red --literal x"),
    (Needed, "--names a --color 2 --literal y -p there/x --cost 2.50"),
    (Needed, "--names a --color 2 --literal y --place there --price 3"),
    (Needed, "--names a --color red"),
    (Needed, "--names a --color red --literal x --inside 4"),
]


def answer(parser: Any, words: list[str]) -> Any:
    """Instances, or `refused`: the reference raises `ValueError` for unknown words, and so does an `InputError`."""
    try:
        return parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except (SystemExit, ValueError):
        return "refused"


@pytest.mark.parametrize(("kind", "line"), CASES, ids=[f"{kind.__name__}: {line}" for kind, line in CASES])
@pytest.mark.filterwarnings("ignore")
def test_as_the_reference(kind: type[Any], line: str) -> None:
    found = answer(HfArgumentParser(kind), line.split())
    wanted = answer(transformers.HfArgumentParser(kind), line.split())
    assert found == wanted
    if wanted != "refused":
        types = [
            # A default that is a text of an enumeration is a plain text in the reference.
            [str if isinstance(value, str) else type(value) for value in vars(made[0]).values()]
            for made in (found, wanted)
        ]
        assert types[0] == types[1]


KINDS = [Defaults, Switches, Options, Lists]


@pytest.mark.parametrize("kind", KINDS)
def test_options_and_namespace_as_the_reference(kind: type[Any]) -> None:
    ours, theirs = HfArgumentParser(kind), transformers.HfArgumentParser(kind)
    assert ours._option_string_actions.keys() == theirs._option_string_actions.keys()
    assert vars(ours.parse_args([])) == vars(theirs.parse_args([]))


@pytest.mark.parametrize("values", [{"count": 1}, {"count": 1, "foo": True, "other": 2}, {}, {"rate": "x"}])
@pytest.mark.parametrize("extra", [False, True])
def test_dictionaries_as_the_reference(values: dict[str, Any], extra: bool) -> None:
    def read(parser: Any) -> Any:
        try:
            return parser.parse_dict(values, allow_extra_keys=extra)
        except ValueError:
            return "refused"

    kinds = (Defaults, Switches)
    assert read(HfArgumentParser(kinds)) == read(transformers.HfArgumentParser(kinds))


# ---------------------------------------------------------------------- what the reference does not do


def one(kind: type[Any], *words: str) -> Any:
    (made,) = HfArgumentParser(kind).parse_args_into_dataclasses(words, look_for_args_file=False)
    return made


@dataclass
class More:
    table: dict[str, int] = field(default_factory=dict)
    bare: Dict = field(default_factory=dict)  # type: ignore[type-arg]  # noqa: UP006
    old: list = field(default_factory=list)  # type: ignore[type-arg]
    either: str | list[str] | None = None
    path: Path | None = None
    switches: list[bool] = field(default_factory=list)
    on: bool | str = False
    pair: tuple[int, int] = (1, 2)
    anything: Any = None
    colors: list[Color] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    few: list[int] = field(default_factory=list, metadata={"choices": range(3)})
    nested: Defaults = field(default_factory=Defaults)


@pytest.mark.parametrize(
    ("kind", "words", "values"),
    [
        (Switches, ["--opt"], {"opt": True}),
        (Options, ["--foo", "none", "--bar", "null"], {"foo": None, "bar": None}),
        (Choices, ["--perhaps", "none"], {"perhaps": None}),
        (Lists, ["--texts", "a,b", "--ints", "[4, 5]", "--floats", "1,2"], {"texts": ["a", "b"], "ints": [4, 5]}),
        (Lists, ["--texts", '["a b", "c"]', "--ints", "[]"], {"texts": ["a b", "c"], "ints": []}),
        (Lists, ["--texts", "[x"], {"texts": ["[x"]}),
        (Lists, ["--colors", "2,red"], {"colors": [Color.TWO, Color.RED]}),
        (More, ["--table", '{"a": 1}'], {"table": {"a": 1}}),
        (More, ["--old", "a", "b", "--either", "a"], {"old": ["a", "b"], "either": "a"}),
        (More, ["--either", "a", "b"], {"either": ["a", "b"]}),
        (More, ["--either", "a,b"], {"either": ["a", "b"]}),
        (More, ["--path", "x", "--paths", "x,y"], {"path": Path("x"), "paths": [Path("x"), Path("y")]}),
        (More, ["--switches", "yes", "0", "--on"], {"switches": [True, False], "on": True}),
        (More, ["--on", "steps", "--anything", "x"], {"on": "steps", "anything": "x"}),
        (More, ["--few", "1,2"], {"few": [1, 2]}),
    ],
)
def test_more_words_are_understood(kind: type[Any], words: list[str], values: dict[str, Any]) -> None:
    made = one(kind, *words)
    assert {name: getattr(made, name) for name in values} == values


def test_numbers_of_fractions_are_no_whole_ones() -> None:
    assert [type(value) for value in one(Lists, "--floats", "[1, 2]").floats] == [float, float]
    assert read_words(["3"], float | None) == 3 and isinstance(read_words(["3"], float | None), float)


def test_every_instance_has_defaults_of_its_own() -> None:
    parser = HfArgumentParser(Lists)
    first, second = (parser.parse_args_into_dataclasses([])[0] for _ in range(2))
    assert first == second and first.ints is not second.ints


def test_several_classes_other_arguments_and_words_that_are_left() -> None:
    parser = HfArgumentParser([Defaults, Switches])
    parser.add_argument("--mine", type=int, default=3)
    parser.add_argument("--times", type=int, dest="count")
    parser.set_defaults(rate=0.25)
    found = parser.parse_args_into_dataclasses(
        ["--foo", "--lost", "x", "--times", "4"], return_remaining_strings=True, look_for_args_file=False
    )
    assert found == (Defaults(4, 0.25), Switches(foo=True), argparse.Namespace(mine=3), ["--lost", "x"])
    assert HfArgumentParser().parse_args_into_dataclasses([]) == ()
    parser = HfArgumentParser(Defaults, allow_abbrev=True)
    assert parser.parse_args_into_dataclasses(["--cou", "5"]) == (Defaults(5),)


# ---------------------------------------------------------------------- training settings


@dataclass
class Model:
    model_name: str
    freeze: bool = False


@dataclass(kw_only=True)
class OwnSettings(TrainingArguments):
    """A user's settings: more fields, one that others call by an older name, and a check."""

    generation_temperature: float = 1.0
    """How bold the texts are, 100% of it."""
    stages: list[int] = field(default_factory=lambda: [1])
    where: Path | None = None
    group_by_length: bool = field(default=False, metadata={"help": "of its own"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generation_temperature <= 0:
            raise InputError("generation_temperature: got 0, wanted more")


LINE = (
    "--output_dir x --learning_rate 1e-4 --bf16 --evaluation_strategy steps --logging_steps 5 --optim adafactor "
    "--label_names a b --model_name bert --seed 7 --no_packed --use-cpu --report_to none --lr_scheduler_kwargs "
    '{"num_cycles":2} --lr_scheduler_type cosine --disable_tqdm True --overwrite_output_dir --save_total_limit none'
)


@pytest.mark.parametrize("kind", [TrainingArguments, Seq2SeqTrainingArguments, OwnSettings])
def test_training_settings(kind: type[TrainingArguments]) -> None:
    model, found = HfArgumentParser((Model, kind)).parse_args_into_dataclasses(LINE.split(), look_for_args_file=False)
    wanted = kind(
        "x", learning_rate=1e-4, bf16=True, eval_strategy="steps", logging_steps=5, optim="adafactor", seed=7,
        label_names=["a", "b"], packed=False, use_cpu=True, lr_scheduler_kwargs={"num_cycles": 2}, disable_tqdm=True,
        lr_scheduler_type="cosine",
    )  # fmt: skip
    assert model == Model("bert") and type(found) is kind
    assert found.to_dict() == wanted.to_dict() and found.eval_steps == 5


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_training_settings_as_the_reference() -> None:
    text = (
        "--output_dir x --learning_rate 1 --warmup_steps 10 --eval_strategy epoch --save-strategy epoch --optim sgd "
        "--load_best_model_at_end --label_names a b --no_dataloader_pin_memory --num_train_epochs 2 --do_train "
        "--gradient_checkpointing --gradient_checkpointing_kwargs {} --log_level info --use_cpu --report_to none"
    )
    line = text.split()
    (found,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(line)
    (wanted,) = transformers.HfArgumentParser(transformers.TrainingArguments).parse_args_into_dataclasses(line)
    names = {part.name for part in dataclasses.fields(wanted)} & found.fields().keys()
    different = {name for name in names - FIXED.keys() if found.to_dict()[name] != wanted.to_dict()[name]}
    assert different <= {"logging_dir", "disable_tqdm"}  # the latter follows from the level of each one's log


def test_every_field_and_older_name_is_an_option() -> None:
    parser = HfArgumentParser(Seq2SeqTrainingArguments)
    parser.parse_args([])
    for name in (*Seq2SeqTrainingArguments.fields(), *RENAMED, *SWITCHES, *GONE):
        assert {f"--{name}", f"--{name.replace('_', '-')}"} <= parser._option_string_actions.keys()
    assert "--no_average_tokens_across_devices" in parser._option_string_actions


def test_what_is_left_out_is_left_to_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    original = TrainingArguments.from_dict.__func__  # type: ignore[attr-defined]

    def watched(cls: Any, values: dict[str, Any]) -> Any:
        told.append(dict(values))
        return original(cls, values)

    monkeypatch.setattr(TrainingArguments, "from_dict", classmethod(watched))
    one(TrainingArguments, "--output_dir", "x", "--group_by_length", "--label_names", "a")
    assert told == [{"output_dir": "x", "group_by_length": True, "label_names": ["a"]}]


def test_older_names_give_way_to_names_of_others(caplog: pytest.LogCaptureFixture) -> None:
    @dataclass
    class Data:
        past_index: int = 5
        adafactor: bool = False

    parser = HfArgumentParser((Data, TrainingArguments))
    parser.add_argument("--no_cuda", action="store_true")
    data, settings, rest = parser.parse_args_into_dataclasses(["--past_index", "9", "--adafactor", "--no_cuda"])
    assert (data.past_index, data.adafactor, rest) == (9, True, argparse.Namespace(no_cuda=True))
    assert not settings.use_cpu and settings.optim == "adamw_torch_fused" and not caplog.records
    data, settings = parser.parse_dict({"past_index": 8, "no_cuda": True})  # here the script's options are not known
    assert data.past_index == 8 and settings.use_cpu

    own = one(OwnSettings, "--group_by_length", "--generation-temperature", "0.5", "--stages", "1", "2", "--where", "x")
    assert own.group_by_length and own.train_sampling_strategy == "random" and own.stages == [1, 2]
    assert own.generation_temperature == 0.5 and own.where == Path("x")


# ---------------------------------------------------------------------- files


def test_a_file_of_words_beside_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "train.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--count", "2"])
    parser = HfArgumentParser(Defaults)
    assert parser.parse_args_into_dataclasses() == (Defaults(2),)
    script.with_suffix(".args").write_text("--count 1\n--rate 0.25 --name 'a'\n", encoding="utf-8")
    wanted = (Defaults(2, 0.25, "'a'"),)
    assert parser.parse_args_into_dataclasses() == wanted
    assert transformers.HfArgumentParser(Defaults).parse_args_into_dataclasses() == wanted
    assert parser.parse_args_into_dataclasses(look_for_args_file=False) == (Defaults(2),)

    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("--name first --rate 1", encoding="utf-8")
    second.write_text("--name second", encoding="utf-8")
    assert parser.parse_args_into_dataclasses(args_filename=first) == (Defaults(2, 1.0, "first"),)
    for words in (
        [f"--file={first}", "--file", str(second)],
        ["--file", str(first), "--rate", "1", f"--file={second}"],
    ):
        for other in (parser, transformers.HfArgumentParser(Defaults)):
            found = other.parse_args_into_dataclasses(words, args_file_flag="--file", args_filename=str(second))
            assert found == (Defaults(42, 1.0, "second"),)
    with pytest.raises(FileError, match=r"nowhere\.txt: cannot be opened"):
        parser.parse_args_into_dataclasses(args_filename=tmp_path / "nowhere.txt")
    with pytest.raises(SystemExit):
        parser.parse_args_into_dataclasses(["--file"], args_file_flag="--file")
    for name in ([""], []):  # typed by hand
        monkeypatch.setattr(sys, "argv", name)
        assert parser.parse_args_into_dataclasses([]) == (Defaults(),)


def test_settings_from_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    values = {"model_name": "bert", "learning_rate": 1e-4, "evaluation_strategy": "epoch", "hub_token": "<HUB_TOKEN>"}
    path.write_text(json.dumps(values), encoding="utf-8")
    parser = HfArgumentParser((Model, TrainingArguments))
    for model, settings in (parser.parse_json_file(path), parser.parse_json_file(str(path))):
        assert model == Model("bert") and settings.learning_rate == 1e-4 and settings.eval_strategy == "epoch"
        assert settings.hub_token is None
    made = Seq2SeqTrainingArguments("out", generation_max_length=9, use_cpu=True)
    made.to_json_file(tmp_path)
    (read,) = HfArgumentParser(Seq2SeqTrainingArguments).parse_json_file(tmp_path / "training_args.json")
    assert read.to_dict() == made.to_dict()


def test_settings_from_a_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "model_name: bert\nlearning_rate: 1e-4\nbf16: yes\nlabel_names: [a, b]\nwarmup_ratio: 1e-1\n"
        "max_grad_norm: 2\nneftune_noise_alpha: null\nrun_name: 1e-4\n",
        encoding="utf-8",
    )
    model, settings = HfArgumentParser((Model, TrainingArguments)).parse_yaml_file(path)
    assert model == Model("bert") and settings.learning_rate == 1e-4 and settings.bf16 and settings.warmup_steps == 0.1
    assert settings.label_names == ["a", "b"] and settings.max_grad_norm == 2 and settings.run_name == "1e-4"
    path.write_text("count: 7\nname: x\nother: 1\n", encoding="utf-8")
    for parser in (HfArgumentParser(Defaults), transformers.HfArgumentParser(Defaults)):
        assert parser.parse_yaml_file(str(path), allow_extra_keys=True) == (Defaults(7, name="x"),)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", None, "cannot be opened"),
        ("x.json", "{", "not valid JSON at line 1"),
        ("x.json", "[1]", r"got \[1\], wanted a JSON object"),
        ("x.json", '{"count": 1, "count": 2}', "key 'count' stands twice"),
        ("x.yaml", None, "cannot be opened"),
        ("x.yaml", "a: [1\nb: 2", "not valid YAML at line 2, column 2: "),
        ("x.yaml", "a: \x00", "not valid YAML: special characters"),
        ("x.yaml", "a: 2020-13-45", "not valid YAML: month must be"),
        ("x.yaml", "[" * 5000, "not valid YAML: nested too deeply"),
        ("x.yaml", "- 1", r"got \[1\], wanted lines such as"),
        ("x.yaml", "", "got None, wanted lines such as"),
        ("x.yaml", "a: !!python/object/apply:os.system [ls]", "not valid YAML at line 1"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    parser = HfArgumentParser(Defaults)
    with pytest.raises(FileError, match=f"^{path}: {message}") as caught:
        (parser.parse_json_file if name == "x.json" else parser.parse_yaml_file)(path)
    assert "\n" not in str(caught.value)


def test_yaml_is_only_needed_for_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    parser = HfArgumentParser(Defaults)
    assert parser.parse_dict({}) == (Defaults(),)
    with pytest.raises(MissingDependencyError, match=r"pip install pyyaml$"):
        parser.parse_yaml_file(tmp_path / "x.yaml")


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        (TrainingArguments, "--learning_rate abc", "--learning-rate/--learning_rate: got 'abc', wanted a number"),
        (TrainingArguments, "--learning_rate -1", "got '-1', wanted a number from 0 to inf"),
        (TrainingArguments, "--seed x", "--seed: got 'x', wanted a whole number"),
        (TrainingArguments, "--log_level loud", "got 'loud', wanted one of 'debug', 'info'"),
        (TrainingArguments, "--bf16 maybe", "--bf16: got 'maybe', wanted true or false"),
        (Choices, "--color blu", "--color: got 'blu', wanted one of 'red', 'blue', 2; did you mean 'blue'?"),
        (Choices, "--picked 4", "--picked: got '4', wanted one of 1, 2, 3"),
        (Lists, "--ints 1 x", "--ints: got 'x', wanted a whole number"),
        (Lists, "--ints 1,x", "--ints: got 'x', wanted a whole number"),
        (More, "--table {1", "--table: got '{1', wanted a dictionary from a text to a whole number"),
        (More, "--pair 1", "--pair: got '1', wanted tuple[int, int], which words cannot say; set it in a file"),
        (More, '--bare {"a":1}', "wanted typing.Dict, which words cannot say"),
        (More, "--nested x", "--nested: got 'x', wanted <class"),
        (More, "--few 1 7", "--few: got '7', wanted one of 0, 1, 2"),
        (Needed, "--price much", "--price/--cost: got 'much', wanted <class 'decimal.Decimal'>"),
        (Needed, "--names a", "the following arguments are required: --color, --literal"),
    ],
)
def test_a_wrong_word_ends_the_script(
    capsys: pytest.CaptureFixture[str], kind: type[Any], line: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        one(kind, *line.split())
    shown = capsys.readouterr()
    assert caught.value.code == 2 and shown.out == ""
    assert shown.err.startswith("usage: ") and message in shown.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lerning_rate 1", r"got '--lerning_rate', '1', wanted options that --help names; did you mean '--learning_"),
        ("--learning_rat=1", "did you mean '--learning_rate'"),
        ("--evaluation_strateg no", "did you mean '--evaluation_strategy'"),
        ("word", "got 'word', wanted options that --help names$"),
        ("--optim adamm", "^TrainingArguments: optim: got 'adamm'"),
        ("--fp16", r"^TrainingArguments: fp16: got True, wanted False; training needs no scaled losses"),
        ("--load_best_model_at_end", "load_best_model_at_end"),
        ("--jit_mode_eval", "jit_mode_eval: got True, wanted False"),
    ],
)
def test_what_the_class_or_nobody_takes(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        one(TrainingArguments, *line.split())
    assert "\n" not in str(caught.value)


def test_the_class_checks_last() -> None:
    with pytest.raises(InputError, match="generation_temperature: got 0, wanted more"):
        one(OwnSettings, "--generation_temperature", "0")


def test_keys_that_nobody_takes() -> None:
    parser = HfArgumentParser((Defaults, TrainingArguments))
    message = (
        r"^parse_dict: got 'lerning_rate', 7, wanted names of fields of Defaults, TrainingArguments; take them out, "
        r"or pass them over with allow_extra_keys=True; did you mean 'learning_rate'\?$"
    )
    with pytest.raises(InputError, match=message):
        parser.parse_dict({"lerning_rate": 1, 7: 8, "count": 1})  # type: ignore[dict-item]
    assert parser.parse_dict({"lerning_rate": 1, "count": 1}, allow_extra_keys=True)[0] == Defaults(1)
    with pytest.raises(InputError, match=r"^parse_dict: got no names, color, literal, wanted by Needed"):
        HfArgumentParser(Needed).parse_dict({})
    with pytest.raises(InputError, match=r"^parse_dict: got \[\], wanted a dictionary"):
        parser.parse_dict([])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="learning_rate: got 'x', wanted a number"):
        parser.parse_dict({"learning_rate": "x"})
    with pytest.raises(UnknownArgumentError, match="did you mean 'allow_extra_keys'"):
        parser.parse_dict({}, allow_extra_key=True)  # type: ignore[call-arg]


def test_what_is_no_dataclass() -> None:
    for wrong in (int, [Defaults, "x"], Defaults(), 3):
        with pytest.raises(InputError, match="wanted dataclasses"):
            HfArgumentParser(wrong)  # type: ignore[arg-type]

    class Hidden:
        pass

    @dataclass
    class Local:
        part: Hidden | None = None

    with pytest.raises(InputError, match=r"^Local: an annotation says 'Hidden', which its module does not know"):
        HfArgumentParser(Local)
    with pytest.raises(argparse.ArgumentError, match="conflicting option string"):
        HfArgumentParser((Switches, Plain))


# ---------------------------------------------------------------------- the page of help


@dataclass
class Explained:
    _argument_group_name = "about the model"

    model_name: str = field(metadata={"help": "name or folder", "metavar": "NAME"})
    rate: float = 0.5
    """How fast; 10% is much."""
    sharp: bool = True
    color: Color = Color.RED
    secret: int = field(default=1, metadata={"help": argparse.SUPPRESS})


def test_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    parser = HfArgumentParser((Explained, OwnSettings), prog="train.py", description="Trains.")
    parser.add_argument("--mine", default=3, help="of the script")
    page = " ".join(parser.format_help().split())
    for part in (
        "usage: train.py", "Trains.", "about the model:", "--model-name NAME, --model_name NAME name or folder --rate",
        "How fast; 10% is much. (default: 0.5)", "--sharp [SHARP] (default: True)", "--color {red,blue,2}",
        "--no-sharp, --no_sharp the same as --sharp false", "--learning-rate LEARNING_RATE",
        "The highest rate. (default: 5e-05)", "How bold the texts are, 100% of it. (default: 1.0)",
        "of its own (default: False)", "of the script (default: 3)", "--label-names LABEL_NAMES [LABEL_NAMES ...]",
    ):  # fmt: skip
        assert part in page
    for hidden in ("--secret", "--fp16 ", "--evaluation_strategy", "--dataloader-in-order", "(default: ==SUPPRESS==)"):
        assert hidden not in page
    assert parser.format_help().split() == page.split()
    with pytest.raises(SystemExit) as caught:
        parser.parse_args_into_dataclasses(["--help"])
    assert caught.value.code == 0 and "name or folder" in capsys.readouterr().out


def test_help_of_classes_without_source() -> None:
    made = dataclasses.make_dataclass("Made", [("count", int, 3), ("name", str)][:1])
    page = HfArgumentParser(made, prog="x").format_help()
    assert "--count COUNT" in page and "(default: 3)" in page
