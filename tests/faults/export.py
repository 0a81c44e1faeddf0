"""Exports a workdir, as a program that uses the library does: python -m tests.faults.export WORKDIR."""

import sys

from sostenuto import cli
from trainer.export import export_model

if __name__ == "__main__":
    cli.run(lambda operands: print(export_model(operands[0])), usage="WORKDIR", operands=True, argv=sys.argv)
