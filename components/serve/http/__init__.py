"""The HTTP side: routes, authentication, errors, probes."""
