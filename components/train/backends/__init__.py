"""Who loads and adapts the model: the standard libraries or Unsloth, behind one small protocol."""
