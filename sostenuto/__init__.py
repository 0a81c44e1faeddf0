"""What a note is, and how notes are read, stored and checked.

Nothing in this package imports Apache Beam or TensorFlow: a Beam worker and a trainer both build on it.
"""

__version__ = "0.1.0"
