import pytest
import yaml

from tests.conftest import ROOT
from tests.workflow.project import Project
from workflow.engine.errors import Problem
from workflow.engine.params import check, load
from workflow.model.points import at_point


def write(tmp_path, **changes):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        *sections, name = key.split(".")
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
    ({"finetune.lerning_rate": 1e-4}, r"unknown key finetune.lerning_rate \(allowed: trainable, epochs"),
    ({"sed": 1}, r"unknown key sed \(allowed: seed"),
    ({"finetune.epochs": ...}, "the key finetune.epochs is missing"),
    ({"finetune.epochs": 0}, "finetune.epochs is 0: input should be greater than or equal to 1"),
    ({"finetune.epochs": "three"}, "finetune.epochs is 'three': input should be a valid integer"),
    ({"data.on_bad_row": "warn"}, "data.on_bad_row is 'warn': input should be 'fail' or 'skip'"),
    ({"weights.source": "http://x"}, "weights.source is 'http://x': string should match"),
    ({"weights.sha256": {"model.safetensors": "abc"}}, "weights.sha256.model.safetensors is 'abc'"),
    ({"finetune.learning_rate": "5e-5"}, r"should be a valid number \(YAML reads 5e-5 as text; write 5.0e-5\)"),
    ({"carbon.budget_g": 0.0}, "carbon.budget_g is 0.0: input should be greater than 0"),
    ({"sweep": {}}, "sweep is {}"),
    ({"sweep": {"Hot!": {}}}, "Hot!"),
    ({"sweep": {"hot": {"epochz": 3}}}, r"unknown key sweep.hot.epochz .allowed: trainable, epochs"),
    ({"sweep": {"hot": {"epochs": 0}}}, "sweep.hot.epochs is 0: input should be greater"),
    ({"sweep": {"hot": {"seed": -1}}}, "sweep.hot.seed is -1"),
    ({"package.version": 1.0}, "package.version is 1.0: input should be a valid string"),
]


@pytest.mark.parametrize(("changes", "message"), CASES)
def test_an_error_names_key_value_and_reason(tmp_path, changes, message):
    with pytest.raises(Problem, match=message) as caught:
        load(write(tmp_path, **changes))
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
    write(tmp_path, **{"data.folder": "data/smaple"})
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
    params = load(write(tmp_path, sweep={"base": {}, "hot": {"learning_rate": 0.5, "seed": 7}}))
    base, hot = at_point(params, "base"), at_point(params, "hot")
    assert base == params and hot.seed == 7 and hot.finetune.learning_rate == 0.5
    assert hot.finetune.model_copy(update={"learning_rate": base.finetune.learning_rate}) == base.finetune
