import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests import soak
from tests.conftest import ROOT
from tests.workflow.project import Project
from workflow.engine.errors import Problem
from workflow.engine.params import check, load
from workflow.model.points import at_point


def write(tmp_path, changes):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        *sections, name = key.split(".") if isinstance(key, str) else [key]
        mapping = params
        for section in sections:
            mapping = mapping[section]
        if value is ...:
            del mapping[name]
        else:
            mapping[name] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path / "params.yaml"


def test_params_yaml_is_valid():
    assert load(ROOT / "params.yaml").seed == 0


def test_every_key_has_a_comment():
    lines = (ROOT / "params.yaml").read_text().splitlines()
    without_comment = []
    for i, line in enumerate(lines):
        key, _, value = line.strip().partition(":")
        leaf = value.strip() and not line.startswith("#") and not key.startswith("#")
        if leaf and "#" not in line and not lines[i - 1].strip().startswith("#") and key != "model.safetensors":
            without_comment.append(line)
    assert not without_comment


CASES = [
    ({"finetune.contrastive": "yes"}, "finetune.contrastive is 'yes': input should be 'auto', True or False"),
    ({"finetune.lerning_rate": 1e-4}, r"unknown key finetune.lerning_rate \(allowed: head, trainable"),
    ({"sed": 1}, r"unknown key sed \(allowed: seed"),
    ({"finetune.epochs": ...}, "the key finetune.epochs is missing"),
    ({"finetune.epochs": 0}, "finetune.epochs is 0: input should be greater than or equal to 1"),
    ({"finetune.epochs": "three"}, "finetune.epochs is 'three': input should be a valid integer"),
    ({"data.on_bad_row": "warn"}, "data.on_bad_row is 'warn': input should be 'fail' or 'skip'"),
    ({"weights.source": "http://x"}, "weights.source is 'http://x': string should match"),
    ({"weights.sha256": {"model.safetensors": "abc"}}, "weights.sha256.model.safetensors is 'abc'"),
    ({"finetune.learning_rate": "fast"}, "finetune.learning_rate is 'fast': input should be a valid number"),
    ({"carbon.budget_g": 0.0}, "carbon.budget_g is 0.0: input should be greater than 0"),
    ({"sweep": {}}, "sweep is {}"),
    ({"sweep": {"Hot!": {}}}, "Hot!"),
    ({"sweep": {"hot": {"epochz": 3}}}, r"unknown key sweep.hot.epochz .allowed: head, trainable"),
    ({"sweep": {"hot": {"epochs": 0}}}, "sweep.hot.epochs is 0: input should be greater"),
    ({"sweep": {"hot": {"seed": -1}}}, "sweep.hot.seed is -1"),
    (
        {"package.version": 1.0},
        r"package.version is 1.0: input should be a valid string \(YAML reads it as float; put it in quotes\)",
    ),
    ({"package.version": "01.2.3"}, "package.version is '01.2.3'"),
    ({"package.name": "a__b"}, "package.name is 'a__b'"),
    ({"package.name": "a_"}, "package.name is 'a_'"),
    ({"distill.students": {"a__b": {}}}, "distill.students.a__b"),
    ({"distill.students": {"a": {"buckets": 7}}}, "distill.students.a.buckets is 7: input should be a power of 2"),
    ({"distill.students": {"a": {"x": 1}}}, "unknown key distill.students.a.x .allowed: architecture, vectors"),
    ({"package.description": "two\nlines"}, "package.description is"),
    ({"sweep": {1: {}}}, r"sweep.1 is 1: input should be a valid string \(YAML reads it as int; put it in quotes\)"),
    ({"sweep": {True: {}}}, r"sweep.1 is True: .* \(YAML reads it as bool"),
    ({"sweep": {None: {}}}, "sweep.None is None"),
    ({"sweep": {"base": {1: 2}}}, "sweep.base.1 is 1: keys should be strings"),
    ({1: 2}, "1 is 1: keys should be strings"),
    ({"data.folder": 2024}, r"data.folder is 2024: .* put it in quotes"),
    ({"data.label": "text"}, "text and label must be two columns"),
]


@pytest.mark.parametrize(("changes", "message"), CASES)
def test_an_error_names_key_value_and_reason(tmp_path, changes, message):
    with pytest.raises(Problem, match=message) as caught:
        load(write(tmp_path, changes))
    assert "\n" not in str(caught.value)


def test_a_missing_or_malformed_file_raises(tmp_path):
    with pytest.raises(Problem, match="not found: run this in the root"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(Problem, match="is not YAML"):
        load(tmp_path / "params.yaml")


def test_bad_params_stop_a_stage_before_any_work(tmp_path):
    project = Project(tmp_path, **{"evaluate.confidense": 0.9})
    for module in ("engine.params", "stages.download_weights"):
        done = project.module(module, check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1 and "unknown key evaluate.confidense" in done.stderr
    assert not (tmp_path / "data/weights").exists()


def test_a_missing_data_folder_is_reported_with_its_key(tmp_path, monkeypatch):
    write(tmp_path, {"data.folder": "data/smaple"})
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "workflow").mkdir()
    for name in ("versions.yaml", "slices.yaml"):
        shutil.copy(ROOT / "workflow" / name, tmp_path / "workflow")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"data\.folder is 'data/smaple': folder not found"):
        check()
    (tmp_path / "data/smaple").mkdir(parents=True)
    check()


def test_an_unknown_country_stops_before_any_work(tmp_path):
    from workflow.engine.energy import Energy, metered

    with pytest.raises(Problem, match=r"carbon\.country is 'GER'"), metered("GER", 1.0, Energy()):
        raise AssertionError("must stop before any work")


def test_a_point_of_the_sweep_replaces_only_its_own_settings(tmp_path):
    params = load(write(tmp_path, {"sweep": {"base": {}, "hot": {"learning_rate": 0.5, "seed": 7}}}))
    base, hot = at_point(params, "base"), at_point(params, "hot")
    assert base == params and hot.seed == 7 and hot.finetune.learning_rate == 0.5
    assert hot.finetune.model_copy(update={"learning_rate": base.finetune.learning_rate}) == base.finetune


def test_numbers_without_a_decimal_point_and_duplicate_keys_are_read_as_by_dvc(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("learning_rate: 1.0e-4", "learning_rate: 1e-4"))
    assert load(path).finetune.learning_rate == 1e-4
    path.write_text(text.replace("  base: {}", "  1e5: {}"))
    with pytest.raises(Problem, match=r"sweep.100000.0 is 100000.0: .* put it in quotes"):
        load(path)
    path.write_text(text + "seed: 1\n")
    with pytest.raises(Problem, match=r'is not YAML: .* found duplicate key "seed"'):
        load(path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Only what `check` reads."""
    for file in ("params.yaml", "dvc.yaml", "workflow/versions.yaml", "workflow/slices.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "data/sample").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRITTEN = [
    ("data.folder", "data"),
    ("data.folder", "."),
    ("data.folder", ".."),
    ("data.folder", "data/weights/"),
    ("data.folder", "data/model/mine"),  # where `compare` moves what no stage makes
    ("data.folder", "data/../data/sentences/train"),
    ("weights.source", "path:data/weights"),
    ("weights.source", "path:./data/model/base/pipeline/trf_tok2vec"),
]


@pytest.mark.parametrize(("key", "value"), WRITTEN)
def test_a_folder_that_stages_write_to_is_refused(project, key, value):
    check()
    write(project, {key: value})
    with pytest.raises(SystemExit, match=rf"{key} is '.*', but stages write data/\w+: choose another folder$"):
        check()


def test_a_link_to_a_folder_that_stages_write_to_is_refused(project):
    (project / "link").symlink_to("data")
    write(project, {"data.folder": "link"})
    with pytest.raises(SystemExit, match=r"data\.folder is 'link', but stages write"):
        check()


def test_two_wheels_have_two_names(project):
    write(project, {"package_weights.name": "sample_sentiment"})
    with pytest.raises(SystemExit, match=r"package\.name and package_weights\.name are both 'sample_sentiment'"):
        check()


ODD = [
    "seed: 2024-02-31", "seed: !!int ''", "seed: !!float x", "seed: !!bool x", "seed: !!binary '*'", "seed: !!set {a}",
    "seed: !!timestamp x", "seed: !!python/object/apply:os.system [ls]", "seed: !!omap 3", "seed: =", "seed: 1:99:3",
    "seed: &a [*a]", "<<: {seed: 1}", "<<: 3", "? [1]\n: 2", "? {a: 1}\n: 2", '"a\\e[31m\\nb": 1', '"\\ud800": 1',
    "seed: 99999999999999999999", "seed: " + "9" * 5000, "seed: 0x" + "f" * 5000, "seed: -1", "seed: .nan", "seed: .inf",
    "a: 1\n---\nb: 2", "%YAML 9.9\n---\na: 1", "a: \0", "a:\n\t- b", "- a", "a", "", "a: " + "[" * 50 + "]" * 50,
    "".join(" " * i + "a:\n" for i in range(100)), "a: " + "[" * 100_000, "a: " + "- " * 30_000,
]  # fmt: skip


@pytest.mark.parametrize("line", ODD, ids=lambda line: ascii(line[:30]))
@pytest.mark.parametrize("alone", [True, False])
def test_odd_yaml_is_refused_with_one_line(tmp_path, line, alone):
    rest = "" if alone else (ROOT / "params.yaml").read_text().replace("seed: 0", "")
    refused(tmp_path, f"{line}\n{rest}".encode())


def refused(folder, content):
    """Whether this params.yaml is refused, as it must be: with one line that can be printed, is short, and names the file."""
    path = folder / "params.yaml"
    path.write_bytes(content)
    try:
        load(path)
    except Problem as problem:
        assert str(problem).startswith(str(path)) and str(problem).isprintable() and len(str(problem)) < 12_000
        return True
    return False


def test_aliases_that_multiply_are_refused_at_once(tmp_path):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 15))
    text = (ROOT / "params.yaml").read_text()
    assert refused(tmp_path, (bomb + text).encode())
    assert refused(tmp_path, (bomb + text.replace("seed: 0", "seed: *a14")).encode())
    assert refused(tmp_path, (bomb + text.replace("  base: {}", "  base: {seed: *a14}")).encode())


@pytest.mark.parametrize("value", ["~nobody/data", "a\0b", "x" * 5000, "\x1b[31m"])
@pytest.mark.parametrize("key", ["data.folder", "weights.source"])
def test_a_name_that_no_folder_can_have(project, key, value):
    write(project, {key: value if key == "data.folder" else f"path:{value}"})
    try:
        check()
    except SystemExit as stop:
        assert str(stop.code).startswith(f"error: params.yaml: {key} is ") and str(stop.code).isprintable()


@pytest.mark.parametrize(
    ("key", "value"),
    [("threads", 2**31), ("seed", 2**40), ("sentencize.shard_docs", 10**30), ("finetune.learning_rate", float("inf"))],
)
def test_numbers_that_are_too_large(tmp_path, key, value):
    with pytest.raises(Problem, match=rf"{key} is .*: input should be (less than 2147483648|a finite number)"):
        load(write(tmp_path, {key: value}))


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates() | st.binary(max_size=3)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=5,
)
LINES = (ROOT / "params.yaml").read_text().splitlines()
PIECES = st.sampled_from([
    "&a ", "*a", "<<: *a", "!!int ", "!!set ", "!!python/name:os.system ", "[", "{", "]", "}", ": ", "- ", "? ", "| ", "> ",
    "'", '"', "#", "%", "@", "\t", "\n", "---", "...", "1e400", ".nan", "-.inf", "0x1F", "0o7", "2024-01-01", "~", "yes",
    "\0", "\x85", "\u2028", "\ufeff", "👍", "9" * 30, '"\\e[31m"', '"\\ud800"', "!", "`", "${threads}",
])  # fmt: skip


@soak.fuzz("params.yaml", short=25, many=4000)
@given(st.lists(st.tuples(st.integers(0, len(LINES) - 1), VALUES | st.just(...)), min_size=1, max_size=3))
def test_keys_that_are_removed_or_have_any_value(tmp_path, changes):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    leaves = [(section, key) for section, value in params.items() if isinstance(value, dict) for key in value]
    leaves += [(key,) for key in params]
    for i, value in changes:
        *sections, name = leaves[i % len(leaves)]
        mapping = params
        for section in sections:
            mapping = mapping[section] if isinstance(mapping, dict) and section in mapping else {}
        if not isinstance(mapping, dict):
            continue
        mapping.pop(name, None)
        if value is not ...:
            mapping[name] = value
    refused(tmp_path, yaml.safe_dump(params, allow_unicode=True).encode("utf-8", "surrogatepass"))


@soak.fuzz("params.yaml", short=60, many=6000)
@given(
    st.lists(st.tuples(st.integers(0, len(LINES) - 1), st.integers(0, 60), PIECES | st.none()), min_size=1, max_size=4),
    st.none() | st.tuples(st.integers(0, 6000), st.integers(0, 255)),
)
def test_any_text_in_params_yaml(tmp_path, changes, byte):
    lines = LINES.copy()
    for number, column, piece in changes:
        line = lines[number]
        lines[number] = line * 2 if piece is None else line[:column] + piece + line[column:]
    content = bytearray("\n".join(lines).encode())
    if byte:
        content[byte[0] % len(content)] = byte[1]
    refused(tmp_path, bytes(content))
