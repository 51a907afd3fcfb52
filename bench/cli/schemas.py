"""JSON Schemas of the YAML files that users write, made from the models: `python -m bench.cli.schemas` writes docs/schema/.

Editors complete and check a file whose first line is `# yaml-language-server: $schema=PATH`.
"""

import json

from bench.core.files import ROOT, write_text
from bench.core.models import Model
from bench.sweeps import SweepConfig
from slurm.cluster import ClusterConfig

SCHEMAS: dict[str, type[Model]] = {"sweep": SweepConfig, "cluster": ClusterConfig}


def write_schema(name: str) -> str:
    """The JSON Schema of a kind of file."""
    schema = SCHEMAS[name].model_json_schema()
    if name == "sweep":  # a single section needs no list around it
        for key, part in schema["properties"].items():
            schema["properties"][key] = {"anyOf": [part["items"], part]}
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for each in SCHEMAS:
        write_text(ROOT / "docs" / "schema" / f"{each}.json", write_schema(each))
