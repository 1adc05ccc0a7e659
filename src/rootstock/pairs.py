"""Text pairs that the model reads together, such as premise and hypothesis, or question and passage."""

from spacy.language import Language
from spacy.tokens import Doc

from . import attributes


def make_pair(nlp: Language, first: str, second: str) -> Doc:
    """A Doc of both texts, with white space between them, for `nlp(doc)`, `nlp.pipe` or an Example.

    `trf_wordpiecer` separates them with the boundary pieces and token types of the model's own tokenizer.
    `doc._.trf_second_text` is the index of the token at which the second begins. The pair has one class vector.
    Set it anew if tokens before it are merged or split: `trf_wordpiecer` raises ValueError if it no longer fits.
    """
    attributes.register()
    docs = [nlp.make_doc(first), nlp.make_doc(second)]
    pair = Doc.from_docs(docs, ensure_whitespace=True)
    pair._.trf_second_text = len(docs[0])
    pair.user_data[attributes.SECOND_START] = len(pair.text) - len(docs[1].text)
    return pair
