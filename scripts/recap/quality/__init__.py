"""Quality of an arm's captions, measured so that neither counter nor size misleads.

Special tokens are removed before anything is counted, arms are compared on the
ids they share, and every interval comes from resampling records.
"""
