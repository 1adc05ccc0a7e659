"""Run by the package stages in a clean environment: load the installed pipeline and apply it to some texts."""

import json
import sys
from importlib import metadata
from pathlib import Path

import spacy
import torch

import rootstock

question = json.loads(Path(sys.argv[1]).read_text("utf-8"))
torch.set_num_threads(question["threads"])
spacy.prefer_gpu()
nlp = spacy.load(question["name"])
docs = nlp.pipe(question["texts"], batch_size=question["batch_size"])
values = [getattr(doc, question["attribute"]) for doc in docs]
# spaCy uses the entry points of the first distribution with this name on the path.
library = metadata.distribution("spacy-rootstock")
assert {f for f in nlp.pipe_factories.values() if f.startswith("trf_")} <= {e.name for e in library.entry_points}
seen = [str(Path(rootstock.__file__).resolve()), str(Path(str(library.locate_file(""))).resolve())]
answer = json.dumps({"seen": seen, "values": values}, default=lambda array: array.tolist())
Path(sys.argv[2]).write_text(answer, "utf-8")
