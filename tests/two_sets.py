"""Run by torchrun from the tests: a run whose processes see sets of their own; each writes what it was told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mmssl import dist, train
from mmssl.errors import UserError


def main(file: str) -> None:
    rank = os.environ["RANK"]
    told = []
    for number, recipe in enumerate(json.loads(Path(file).read_text())):
        for task in recipe["tasks"].values():
            task["data"]["shards"] = task["data"]["shards"].replace("RANK", rank)
        try:
            train(recipe, out=f"{file}.{number}", progress=False)
            told.append("")
        except UserError as error:
            told.append(str(error))
    Path(f"{file}.rank{rank}").write_text(json.dumps(told))
    dist.leave()


main(sys.argv[1])
