"""Fewer bits: calibrated 8-bit quantisation that is kept only where it is faster and as accurate as asked."""
