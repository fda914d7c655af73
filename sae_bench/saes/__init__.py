"""Sparse autoencoders behind one small protocol: reading, wrapping, controls, conformance."""
