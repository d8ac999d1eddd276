"""From a configuration to a finished run: resolve, build, fit, summarise."""
