"""The inside of the sandbox: run as a program by ``prefine.sandbox``, needing the standard library alone.

Its modules import each other by their bare names (``import layers``): the program runs without prefine on its path.
"""
