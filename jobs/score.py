"""The score stage alone: every user's top-k to Parquet with Ray Data.

    ray job submit --working-dir . -- python jobs/score.py --config jobs/nightly.yaml

Runs where the nodes have the dependencies but not nightrank itself. The last line of the log is one JSON object.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "platform"))

from nightrank.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
