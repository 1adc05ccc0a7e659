"""`trf_release`: release the transformer's output at the end of a pipeline."""

from typing import Any, Literal

from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import to_numpy

from .. import attributes


@Language.factory("trf_release", default_config={"activations": "drop"})
def make_release(nlp: Language, name: str, activations: Literal["cpu", "drop"]) -> "Release":
    """Make the component for `nlp.add_pipe`. Without it documents keep all outputs, on the device that computed them.

    activations: cpu moves `doc.tensor` and the outputs from the GPU to host memory (NumPy arrays); drop removes them,
        and with them the vectors.
    """
    return Release(activations)


class Release:
    """A component without training: `nlp.update` skips it."""

    def __init__(self, activations: Literal["cpu", "drop"]) -> None:
        self.activations = activations

    def __call__(self, doc: Doc) -> Doc:
        doc.user_data.pop(attributes.GRADIENTS, None)
        if self.activations == "drop":
            doc.user_data.pop(attributes.OUTPUTS, None)
            doc.tensor = to_numpy(doc.tensor)[:0]
        else:
            outputs = doc.user_data.get(attributes.OUTPUTS, {})
            doc.user_data[attributes.OUTPUTS] = {name: _to_host(value) for name, value in outputs.items()}
            doc.tensor = to_numpy(doc.tensor)
        return doc


def _to_host(value: Any) -> Any:
    return [to_numpy(part) for part in value] if isinstance(value, list) else to_numpy(value)
