"""mgm-recap: does a data recipe make a small vision-language model better?

The package holds the logic of every pipeline stage; the scripts beside it are
thin command lines, and the Snakemake rules only wire them together.
"""
