"""A head for a new task: a tagger on `doc.tensor` that trains the transformer with it.

python examples/tagger.py data/weights
"""

import sys

import spacy
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Softmax, fix_random_seed

from rootstock.components.head import Head
from rootstock.pieces.alignment import add_tensor_gradient


class Tagger(Head):
    def __init__(self, vocab, name, tags, width):
        self.vocab, self.name, self.tags = vocab, name, tags
        self.model = Softmax(len(tags), width).initialize()

    def predict(self, docs):
        return [self.model.predict(doc.tensor) for doc in docs]

    def set_annotations(self, docs, scores):
        for doc, rows in zip(docs, scores, strict=True):
            for token, best in zip(doc, rows.argmax(axis=1).tolist(), strict=True):
                token.tag_ = self.tags[best]

    def learn(self, docs, examples, drop):
        loss = 0.0
        for doc, eg in zip(docs, examples, strict=True):
            scores, backprop = self.model.begin_update(doc.tensor)
            truth = self.model.ops.xp.zeros_like(scores)
            truth[range(len(doc)), [self.tags.index(tag) for tag in eg.get_aligned("TAG", as_string=True)]] = 1
            loss -= float((truth * self.model.ops.xp.log(scores + 1e-8)).sum())
            add_tensor_gradient(doc, backprop((scores - truth) / len(doc)))
        return loss


@spacy.Language.factory("example_tagger", default_config={"tags": ["NOUN", "VERB", "PUNCT"], "width": 384})
def make_tagger(nlp, name, tags: list[str], width: int):
    return Tagger(nlp.vocab, name, tags, width)


def train(weights: str, steps: int = 25) -> spacy.Language:
    """Train on two sentences in which only the context distinguishes the noun from the verb."""
    fix_random_seed(0)
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": weights})
    tok2vec = nlp.add_pipe("trf_tok2vec", config={"weights": weights, "learning_rate_scale": 0.02})
    nlp.add_pipe("example_tagger", config={"width": tok2vec.width})
    sentences = [("Time flies .", "NOUN VERB PUNCT"), ("Flies time .", "NOUN VERB PUNCT")]
    golds = [Doc(nlp.vocab, words=text.split(), tags=tags.split()) for text, tags in sentences]
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 0.01  # of the head; learning_rate_scale multiplies it for the transformer
    for _ in range(steps):
        examples = [Example(Doc(nlp.vocab, words=[t.text for t in gold]), gold) for gold in golds]
        print(nlp.update(examples, sgd=optimizer)["example_tagger"])
    return nlp


if __name__ == "__main__":
    print([(token.text, token.tag_) for token in train(sys.argv[1])("Flies time .")])
