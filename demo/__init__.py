"""Demonstration of the whole path, from a corpus to music, in one command."""

import sostenuto.interrupt
