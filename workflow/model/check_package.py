"""Run by the package stages in a clean environment: load the installed pipeline and apply it to some texts."""

import json
import sys
from importlib import metadata, util
from pathlib import Path

import spacy

question = json.loads(Path(sys.argv[1]).read_text("utf-8"))
seen = []
if util.find_spec("rootstock"):  # not for a pipeline that needs spaCy alone
    import torch

    import rootstock

    torch.set_num_threads(question["threads"])
    # spaCy uses the entry points of the first distribution with this name on the path.
    library = metadata.distribution("spacy-rootstock")
    seen = [str(Path(rootstock.__file__).resolve()), str(Path(str(library.locate_file(""))).resolve())]
spacy.prefer_gpu()
nlp = spacy.load(question["name"])
docs = nlp.pipe(question["texts"], batch_size=question["batch_size"])
values = [getattr(doc, question["attribute"]) for doc in docs]
factories = {factory for factory in nlp.pipe_factories.values() if factory.startswith("trf_")}
assert not factories or factories <= {entry.name for entry in library.entry_points}
answer = json.dumps({"seen": seen, "values": values}, default=lambda array: array.tolist())
Path(sys.argv[2]).write_text(answer, "utf-8")
