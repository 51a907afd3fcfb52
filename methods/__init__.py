"""Methods: one self-supervised objective per pair of files <name>.py and <name>.yaml.

In: an encoder, the views of a batch and the step. Out: a loss, numbers to log, and the encoder to evaluate.
A method imports bench.method, bench.parts, bench.encoders and bench.core.errors only.
"""
