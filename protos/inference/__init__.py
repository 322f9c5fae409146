"""The Open Inference Protocol, version 2, as Triton speaks it: names and numbers are others', never ours to change."""
