"""`python -m nightrank`: the command line, for whoever has the package but not its script on the path."""

from __future__ import annotations

from nightrank.cli import main

if __name__ == "__main__":
    main()
