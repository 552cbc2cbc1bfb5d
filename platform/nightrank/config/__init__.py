"""Settings: job files, cluster.yaml, serve_config.yaml. Strict: an unknown key names the nearest known."""
