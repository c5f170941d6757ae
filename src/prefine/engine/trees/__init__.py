"""Rows as prefix trees: every prefix that several rows share is computed once.

tree        rows to trees, trees to packed rows, and what is to be read off them
layout      a packed row as attention wants it          pieces   attention on a CPU          flex   on a GPU
attention   how a transformers model is told            narrow   the last layer computes only what is read
route       the route of ``engine.score``, when it is taken, and micro-batches by tree tokens
"""
