"""What is timed: one module a side, run by ``benchmarks.worker`` in a process of its own.

``open(settings)`` gives the operations of a side by name; an operation takes and gives what JSON can hold.
"round" does the work once and says how long it took; "check" gives the numbers by which the sides are compared
before anything is timed. Modules named after a peer run in the peers' environment and import nothing of prefine.
"""
