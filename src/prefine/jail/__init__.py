"""The inside of the sandbox: run as a program by ``prefine.sandbox``, needing the standard library alone."""
