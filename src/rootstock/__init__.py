"""spaCy pipelines on pretrained transformer weights.

The components are registered through entry points: `nlp.add_pipe("trf_tok2vec", ...)` works if the distribution
`spacy-rootstock` is installed, without importing this package.
"""

__version__ = "0.1.0"
