import json

import pytest
import spacy

from tests.conftest import ROOT
from tests.workflow.project import Project
from workflow.corpus import shards
from workflow.engine import params
from workflow.engine.errors import Problem
from workflow.stages import sentencize

ROWS = [("Fine. I like it.", "A"), ("No.", "B"), ("Well, well.", "A"), ("Not for me!", "B")]


def write(folder, **splits):
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        lines = [row if isinstance(row, str) else json.dumps({"text": row[0], "label": row[1]}) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))


def run(tmp_path, seed=0, **data):
    settings = params.load(ROOT / "params.yaml").model_copy(update={"seed": seed})
    data = settings.data.model_copy(update={"folder": str(tmp_path / "mine"), **data})
    out = tmp_path / "sentences"
    for split in shards.SPLITS:
        sentencize.run(settings.model_copy(update={"data": data}), {}, {"sentences": out / split})
    return {split: json.loads((out / split / "report.json").read_text()) for split in shards.SPLITS}, out


def test_shards_and_report_have_documents_sentences_and_labels(tmp_path):
    write(tmp_path / "mine", train=ROWS, dev=ROWS[:2], test=ROWS[2:])
    report, out = run(tmp_path)
    assert report["test"]["labels"] == ["A", "B"]
    assert report["train"]["documents"] == 4 and report["train"]["sentences"] == 5
    assert report["train"]["documents_per_label"] == {"A": 2, "B": 2}
    docs = list(shards.read(shards.files(out / "train"), spacy.blank("en").vocab))
    assert [doc.text for doc in docs] == [text for text, _ in ROWS]
    assert docs[0].cats == {"A": 1.0, "B": 0.0} and len(list(docs[0].sents)) == 2
    assert docs[1].user_data[shards.ROW].endswith("train.jsonl:2")


def test_columns_have_the_names_that_params_say(tmp_path):
    (tmp_path / "mine").mkdir()
    for split in shards.SPLITS:
        (tmp_path / f"mine/{split}.csv").write_text("category,review,text\nA,Fine.,1\nB,Bad.,2\n")
    report, out = run(tmp_path, text="review", label="category")
    assert report["train"]["labels"] == report["test"]["labels"] == ["A", "B"]
    docs = list(shards.read(shards.files(out / "test"), spacy.blank("en").vocab))
    assert [(doc.text, doc.cats["A"]) for doc in docs] == [("Fine.", 1.0), ("Bad.", 0.0)]


def test_shards_have_the_requested_size(tmp_path):
    docs = (doc for doc in spacy.blank("en").pipe(str(i) for i in range(7)))
    shards.write(docs, tmp_path, 3)
    assert [p.name for p in shards.files(tmp_path)] == ["00000.spacy", "00001.spacy", "00002.spacy"]
    assert [doc.text for doc in shards.read(shards.files(tmp_path), spacy.blank("en").vocab)] == list("0123456")


def test_without_dev_a_share_of_train_is_held_out(tmp_path):
    rows = [(f"Text number {i}.", "AB"[i % 2]) for i in range(200)]
    write(tmp_path / "mine", train=rows, test=rows[:4])
    report, out = run(tmp_path, dev_fraction=0.2)
    texts = {s: {d.text for d in shards.read(shards.files(out / s), spacy.blank("en").vocab)} for s in ("train", "dev")}
    assert texts["train"] | texts["dev"] == {text for text, _ in rows} and not texts["train"] & texts["dev"]
    assert 20 < len(texts["dev"]) < 60
    assert run(tmp_path, dev_fraction=0.2)[0] == report, "the seed must determine the share"


@pytest.mark.parametrize("seed", range(5))
def test_no_label_is_only_in_the_held_out_dev(tmp_path, capsys, seed):
    rows = [(f"Text number {i}.", "A" if i < 8 else "B" if i < 11 else "rare") for i in range(12)]
    write(tmp_path / "mine", train=rows, test=rows)
    report, _ = run(tmp_path, dev_fraction=0.4, seed=seed)
    assert report["train"]["documents_per_label"] == {"A": 5, "B": 2, "rare": 1}
    assert report["dev"]["documents_per_label"] == {"A": 3, "B": 1, "rare": 0}
    assert "dev: no file, so 4 rows of train are held out; too rare for it: rare" in capsys.readouterr().out


def test_every_label_has_its_share_of_the_held_out_dev(tmp_path):
    """Also if each label alone is too rare for one row."""
    rows = [(f"Text number {i}.", f"label {i % 25:02}") for i in range(100)]
    write(tmp_path / "mine", train=rows, test=rows)
    report, _ = run(tmp_path, dev_fraction=0.1)
    assert report["dev"]["documents"] == 10 and max(report["dev"]["documents_per_label"].values()) == 1


@pytest.mark.parametrize("seed", range(20))
def test_with_several_labels_per_row_each_stays_in_train(tmp_path, seed):
    labels = [["A", "B"], ["A", "C"], ["B"], ["C"], [], [], ["D", "E"], ["E", "F"], ["F", "D"]]
    write(
        tmp_path / "mine",
        train=[json.dumps({"text": "x", "labels": some}) for some in labels],
        test=[*map(json.dumps, [{"text": "x", "labels": []}])],
    )
    report, _ = run(tmp_path, exclusive=False, dev_fraction=0.6, seed=seed)
    assert report["dev"]["documents"] > 0 and all(report["train"]["documents_per_label"].values())


def test_documents_may_have_several_labels(tmp_path):
    rows = ['{"text": "x y", "labels": ["A", "B"]}', '{"text": "z", "labels": []}', '{"text": "w", "labels": ["B"]}']
    write(tmp_path / "mine", train=rows, dev=rows, test=rows)
    _, out = run(tmp_path, exclusive=False)
    docs = shards.read(shards.files(out / "train"), spacy.blank("en").vocab)
    assert [doc.cats for doc in docs] == [{"A": 1.0, "B": 1.0}, {"A": 0.0, "B": 0.0}, {"A": 0.0, "B": 1.0}]


def test_skipped_rows_are_reported_and_printed(tmp_path, capsys):
    write(tmp_path / "mine", train=[*ROWS, "no JSON", ("  ", "A")], dev=ROWS, test=[*ROWS, ("What?", "C")])
    report, _ = run(tmp_path, on_bad_row="skip")
    assert [report[split]["skipped"] for split in shards.SPLITS] == [2, 0, 1]
    assert "train.jsonl:5: not JSON" in report["train"]["skipped_rows"][0]
    assert "train: 2 bad rows skipped" in capsys.readouterr().out


def test_skipped_rows_of_a_held_out_dev_are_counted_once(tmp_path):
    rows = [(f"Text number {i}.", "AB"[i % 2]) for i in range(100)]
    write(tmp_path / "mine", train=[*rows, "no JSON"], test=rows)
    report, _ = run(tmp_path, on_bad_row="skip")
    assert [report[split]["skipped"] for split in shards.SPLITS] == [1, 0, 0]


@pytest.mark.parametrize("language", ["en", "de", "sr", "hi", "xx"])  # hi, sr: languages with their own norms
def test_shards_are_the_same_as_with_all_lexical_attributes(tmp_path, language):
    texts = [
        "Isn’t it (no?). “12 $.” Said who?",
        "daß, kol’ko; ‘so’।। कुत्तों।",
        "...!? Then",
    ]
    plain = spacy.blank(language)
    plain.add_pipe("sentencizer")
    for nlp, folder in ((sentencize._tokenizer(language), tmp_path / "ours"), (plain, tmp_path / "plain")):
        shards.write(nlp.pipe(texts), folder, 10)
    (ours,), (theirs,) = (shards.files(tmp_path / name) for name in ("ours", "plain"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_text_may_exceed_a_million_characters(tmp_path):
    write(tmp_path / "mine", train=[*ROWS, ("a b c. " * 150_000, "A")], dev=ROWS, test=ROWS)
    assert run(tmp_path)[0]["train"]["documents"] == 5


def test_an_unknown_language_raises(tmp_path):
    with pytest.raises(Problem, match="language is 'qq'"):
        sentencize._tokenizer("qq")


BAD = {
    "no folder": (None, "folder not found"),
    "a missing file": ({"train": ROWS}, "has no test file: expected one of test.jsonl, test.csv, test.tsv"),
    "an empty file": ({"train": [], "test": ROWS}, "train.jsonl: no usable row"),
    "an empty test file": ({"train": ROWS, "dev": ROWS, "test": []}, "test.jsonl: no usable row for the split test"),
    "a row that is not JSON": ({"train": [*ROWS, "{"], "test": ROWS}, "train.jsonl:5: not JSON"),
    "a label that does not occur in train": ({"train": ROWS, "dev": ROWS, "test": [("x", "C")]}, "test.jsonl:1: label 'C' does not occur"),
    "a document without words": ({"train": ROWS, "dev": ROWS, "test": [("\t", "A")]}, "test.jsonl:1: its text has no words"),
    "a single label": ({"train": ROWS[:1], "test": ROWS[:1]}, "all rows have the label 'A'"),
}  # fmt: skip


@pytest.mark.parametrize(("splits", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_raises_with_one_line(tmp_path, splits, message):
    if splits is not None:
        write(tmp_path / "mine", **splits)
    with pytest.raises(Problem) as caught:
        run(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_stage_exits_with_one_line(tmp_path):
    project = Project(tmp_path, **{"data.folder": "mine"})
    write(tmp_path / "mine", train=[*ROWS, "{"], test=ROWS)
    done = project.stage("sentencize@train", check=False)
    assert done.returncode == 1
    assert (
        done.stderr.startswith("sentencize@train: error: mine/train.jsonl:5: not JSON") and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "data/sentences/train").exists()


def test_rows_used_skipped_not_accepted_and_blank_are_all_rows(tmp_path):
    """With a held-out dev, too: its rows are counted in the report of train."""
    rows = [json.dumps({"text": f"Text {i}.", "label": "AB"[i % 2], "answer": "accept"}) for i in range(40)]
    odd = [
        "{",
        "",
        " ",
        json.dumps({"text": "x", "label": "A", "answer": "ignore"}),
        '{"text": "\\u0000", "label": "A"}',
    ]
    write(tmp_path / "mine", train=[*odd, *rows], test=rows[:2])
    report, out = run(tmp_path, on_bad_row="skip")
    keys = ("documents", "in_other_split", "skipped", "not_accepted", "blank_lines")
    assert [report["train"][key] for key in keys] == [36, 4, 2, 1, 2] and report["dev"]["documents"] == 4
    assert [line.partition(" ")[0][-2:] for line in (out / "train/skipped.txt").read_text().splitlines()] == [
        "1:",
        "5:",
    ]
    assert not (out / "dev/skipped.txt").exists()


def test_repeated_texts_are_reported(tmp_path, capsys):
    write(
        tmp_path / "mine", train=[*ROWS, ROWS[1], (ROWS[0][0], "B"), ("New.", "A")], dev=[("Old.", "B")], test=ROWS[:2]
    )
    report, _ = run(tmp_path)
    file = tmp_path / "mine"
    repeated, contradicting = report["train"]["warnings"]
    assert repeated == (
        f"2 rows have the text of an earlier row: {file}/train.jsonl:5 (in {file}/train.jsonl:2), "
        f"{file}/train.jsonl:6 (in {file}/train.jsonl:1)"
    )
    assert contradicting.startswith(
        f"1 rows have the text of an earlier row, but other labels: {file}/train.jsonl:6 (in"
    )
    assert (report["train"]["repeated"], report["train"]["contradicting"]) == (2, 1)
    assert (report["dev"]["in_train"], report["test"]["in_train"]) == (0, 2) and report["dev"]["warnings"] == []
    [warning] = report["test"]["warnings"]
    assert warning.startswith("2 rows have a text that is in train, too, so scores may be too high: ")
    printed = capsys.readouterr().out
    assert f"test: warning: {warning}\n" in printed and f"train: warning: {contradicting}\n" in printed


def test_a_held_out_row_whose_text_stays_in_train_is_reported(tmp_path):
    rows = [(f"Text number {i % 50}.", "AB"[i % 2]) for i in range(100)]
    write(tmp_path / "mine", train=rows, test=[("Other.", "A")])
    report, out = run(tmp_path, dev_fraction=0.2)
    texts = {s: [d.text for d in shards.read(shards.files(out / s), spacy.blank("en").vocab)] for s in ("train", "dev")}
    assert report["dev"]["in_train"] == sum(text in texts["train"] for text in texts["dev"]) > 0
    assert report["train"]["repeated"] == len(texts["train"]) - len(set(texts["train"]))


def test_few_examples_of_many_repeats(tmp_path):
    write(tmp_path / "mine", train=[ROWS[1], *[ROWS[0]] * 1000], test=ROWS)
    report, _ = run(tmp_path)
    assert report["train"]["repeated"] < 1000 and len(report["train"]["warnings"][0]) < 1000
    assert report["train"]["warnings"][0].endswith("), ...")


def test_binary_answers_about_two_labels_are_no_repeat(tmp_path):
    asked = [("x", "A", "accept"), ("x", "B", "reject"), ("x", "A", "reject"), ("y", "B", "accept")]
    rows = [json.dumps(dict(zip(("text", "label", "answer"), row, strict=True))) for row in asked]
    write(tmp_path / "mine", train=rows, dev=rows[3:], test=rows[1:2])
    report, _ = run(tmp_path, exclusive=False)
    assert (report["train"]["repeated"], report["train"]["contradicting"], report["test"]["in_train"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        (["Good", "good", "bad"], "'Good' and 'good'"),
        (["so so", "so  so", "soso"], "'so  so' and 'so so' and 'soso'"),
        (["é", "e\u0301"], "'e\u0301' and 'é'"),
        (["x\u200b", "x"], r"'x' and 'x\u200b'"),
        (["C+", "C#"], None),
    ],
)
def test_labels_that_look_alike_are_reported(tmp_path, labels, warned):
    rows = [(f"Text {i}.", label) for i, label in enumerate(labels)]
    write(tmp_path / "mine", train=rows, dev=rows[:1], test=rows[:1])
    report, _ = run(tmp_path)
    says = [f"labels that differ only in case or white space: {warned}"] if warned else []
    assert report["train"]["warnings"] == says and report["train"]["labels"] == sorted(labels)


def test_escape_codes_of_labels_and_folders_do_not_reach_the_terminal(tmp_path, capsys):
    nasty = "\x1b[31mred\r\n"
    rows = [(f"Text {i}.", label) for i, label in enumerate([nasty + "!", nasty.upper() + "!", "B", "B", "B"])]
    write(tmp_path / "mine", train=[*rows, rows[0], "{"], test=rows[:2])
    report, _ = run(tmp_path, on_bad_row="skip")
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n")) and r"\x1b[31" in printed
    assert "\x1b" not in printed and report["train"]["labels"] == [nasty.upper() + "!", nasty + "!", "B"]
    with pytest.raises(Problem) as caught:
        write(tmp_path / "mine", test=[("x", "\x1b]0;title\x07")])
        run(tmp_path)
    assert str(caught.value).isprintable()
    error = Problem("a\x1b[31mb\r\nc\u202ed")
    assert str(error) == r"a\x1b[31mb\r\nc\u202ed" and f"{error}" == str(error)


@pytest.mark.slow
def test_five_thousand_classes(tmp_path):
    rows = [(f"Text number {i}.", f"class {i % 5000:04}") for i in range(5200)]
    write(tmp_path / "mine", train=rows, dev=rows[:10], test=rows[10:20])
    report, out = run(tmp_path)
    assert len(report["train"]["labels"]) == 5000 and report["train"]["documents"] == 5200
    doc = next(shards.read(shards.files(out / "test"), spacy.blank("en").vocab))
    assert len(doc.cats) == 5000 and sum(doc.cats.values()) == 1
