# SPDX-License-Identifier: Apache-2.0
"""Turns a bundle's graphs and a plan into what ONNX Runtime computes fastest on this device.

A bundle's graphs are plain ONNX: one float32 product per stack of coded matrices, and a
cache that goes in and comes out. Here they are rewritten: ``rewrites`` lets a step write
into the cache it reads, and leaves out what causal attention would only mask; ``kernels``
says how each product can be stored and computed, down to groups of 2, 4 and 8 bits;
``tuning`` measures which of them is fastest on this device; ``capabilities`` asks what
this ONNX Runtime can do at all; ``traces`` and ``folded`` find and leave out what pruned
channels would compute. ``graph`` reads and writes the files.
"""
