"""The registered model as `mlflow models serve` and `mlflow.pyfunc` run it.

MLflow keeps this file beside the pipeline, and runs it where the wheels are installed. So it imports no other module of
the workflow.
"""

from typing import Any

import pandas
import spacy
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from rootstock.outcomes import reader


class Pipeline(PythonModel):
    """Input: a table with a column `text`. Output: for each row what `rootstock.outcomes.reader` says of it."""

    def load_context(self, context: Any) -> None:
        self.nlp = spacy.load(context.artifacts["pipeline"])
        self.read = reader(self.nlp)

    def predict(self, context: Any, model_input: pandas.DataFrame, params: Any = None) -> list[dict[str, Any]]:
        with self.nlp.memory_zone():  # so that a server does not remember every word that it has ever seen
            return [self.read(doc) for doc in self.nlp.pipe(model_input["text"])]


set_model(Pipeline())
