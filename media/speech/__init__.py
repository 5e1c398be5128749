"""Speech in and out: the contracts of recognition and synthesis, and what fulfils them."""
