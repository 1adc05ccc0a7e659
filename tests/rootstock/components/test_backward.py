"""When the backward pass and the step run, in every order in which spaCy updates heads."""

import spacy
from spacy.training import Example

from rootstock.components import backward
from rootstock.components.backward import BackwardPass, running_update
from tests.rootstock.test_update import BATCHES, build, examples, net_of, sgd


def recording(heads=("a", "b")):
    """A backward pass that waits for these heads, and the list of what it does."""
    calls = []
    passed = BackwardPass(lambda optimizer: calls.append("step"))
    passed.wait_for(set(heads), lambda: calls.append("backward"))
    return passed, calls


def test_each_component_steps_after_its_own_update():
    """`nlp.update(sgd=...)`: the transformer's turn comes first, before any head has a gradient."""
    passed, calls = recording()
    passed.finish_update(None)
    passed.head_updated("a"), passed.head_finished("a", None)
    assert calls == []
    passed.head_updated("b"), passed.head_finished("b", None)
    assert calls == ["backward", "step"]


def test_all_components_step_after_all_updates():
    """`spacy train`, and accumulated gradients."""
    passed, calls = recording()
    passed.head_updated("a"), passed.head_updated("b")
    assert calls == ["backward"]
    passed.finish_update(None)
    assert calls == ["backward", "step"]


def test_a_head_with_nothing_to_learn_is_not_waited_for():
    """spaCy's components return early from an update without annotations: they step, but report no gradient."""
    passed, calls = recording()
    passed.head_updated("a"), passed.head_finished("a", None)
    passed.head_finished("b", None)
    assert calls == ["backward", "step"]


def test_a_head_that_never_reports_delays_the_backward_pass_to_the_next_update():
    passed, calls = recording()
    passed.head_updated("a")
    assert calls == []
    passed.complete()
    assert calls == ["backward"]
    passed.complete()
    assert calls == ["backward"], "only once"


def test_without_any_report_there_is_no_backward_pass():
    """The batch of an update that raised is dropped."""
    passed, calls = recording()
    passed.complete()
    passed.wait_for({"a"}, lambda: calls.append("another"))
    passed.head_updated("a")
    assert calls == ["another"]


def test_a_frozen_transformer_has_no_backward_pass():
    passed, calls = recording()
    passed.wait_for(set(), None)
    passed.head_updated("a")
    assert calls == []


def test_a_component_can_read_the_running_update():
    seen = []

    class Probe:
        def update(self, examples, **_):
            nlp, exclude = running_update()
            seen.append((nlp.pipe_names, exclude))

    nlp = spacy.blank("en")
    for name in ("probe", "a", "b"):
        nlp.add_pipe("sentencizer", name=name)
    nlp.get_pipe("probe").update = Probe().update
    batch = [Example.from_dict(nlp.make_doc("One."), {})]
    nlp.update(batch, exclude=["b"])
    with nlp.select_pipes(disable=["a"]):
        nlp.update(batch)
    assert seen == [(["probe", "a", "b"], {"b"}), (["probe", "b"], set())] and running_update() == (None, set())


def test_training_goes_on_if_the_arguments_of_the_update_cannot_be_read(tiny, monkeypatch):
    """Then an excluded head is waited for: its batch reaches the transformer with the next one."""
    nlp = build(tiny, heads=("one", "two"))
    monkeypatch.setattr(backward.inspect, "currentframe", lambda: None)
    batch, optimizer = examples(nlp, BATCHES[0]), sgd()
    before = [p.detach().clone() for p in net_of(nlp).parameters()]
    for _ in range(2):
        nlp.update(batch, sgd=optimizer, exclude=["two"])
    nlp.get_pipe("trf_tok2vec").finish_update(optimizer)
    assert any((p != q).any() for p, q in zip(net_of(nlp).parameters(), before, strict=True))
