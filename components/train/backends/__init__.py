"""Training backends: the standard libraries or Unsloth load and adapt the model behind one small protocol."""
