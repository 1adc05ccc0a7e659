"""spaCy pipelines on pretrained transformer weights.

The components register themselves through entry points, so `nlp.add_pipe("trf_tok2vec", ...)` works
wherever the distribution `spacy-rootstock` is installed; importing this package is not needed for it.
"""

__version__ = "0.1.0"
