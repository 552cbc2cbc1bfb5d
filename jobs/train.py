"""The train stage alone: the quality gate, then the fit on all events.

    ray job submit --working-dir . -- python jobs/train.py --config jobs/nightly.yaml

Runs where the nodes have the dependencies but not nightrank itself. The last line of the log is one JSON object.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "platform"))

from nightrank.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
