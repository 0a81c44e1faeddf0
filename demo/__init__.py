"""The demo: from nothing to music in one command. Part of the repository, not of what is installed."""
