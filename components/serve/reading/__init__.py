"""How a version's pages are read: as its package was evaluated, unless the service's settings say otherwise."""
