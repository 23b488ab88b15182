"""The steps of DeepSynth Pipelines: one package per step, none of which knows Kubeflow."""

import os

# A waiting OpenMP thread spins by default: beside two busy processes on two cores a training step then takes several
# times as long (docs/benchmarks/cpu). The libraries read the variable once, when they load, so it is set here.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
