"""Pages and readings that are kept where that is allowed: stored, listed, deleted, compared, each access recorded."""
