"""What a run on this machine would do, how long it would take, and whether the machine can: asked before it starts."""
