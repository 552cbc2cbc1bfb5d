"""The day: Ray Serve answers over HTTP from the published release. Imports Ray; never the batch."""
