"""nightrank: exact nightly top-k recommendations on Ray, in Parquet and over HTTP."""

__version__ = "0.1.0"
