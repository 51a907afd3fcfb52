"""What a run is: its typed config, the run_id that names it, the workspace that it runs in, the result that it leaves.

In: base.yaml, a method's yaml and overrides. Out: frozen configs, paths, results that are written once and read by all.

config      the models, run_id, how a config is loaded        layers      base.yaml, method, overrides, and the place of each
mixtures    named mixtures of corpora                         workspace   folders and paths of a run
results     write a result; the one reader of all             packing     a study as one Parquet file (parquet, values: its form)
provenance  code, device and versions                         source      the hash of a method's code
"""
