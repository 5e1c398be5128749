"""Voice activity detection: one model per process, one batch for all calls."""
