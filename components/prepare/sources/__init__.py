"""Where documents come from: one module per kind of source, and ``opening`` that picks the right one."""
