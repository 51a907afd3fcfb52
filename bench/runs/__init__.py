"""What a run is: its typed config, the run_id that names it, the workspace that it runs in, the result that it leaves.

In: base.yaml, a method's yaml and overrides. Out: frozen configs, paths, results that are written once and read by all.
A run is a config, a config has a name, and a name has one result.
"""
