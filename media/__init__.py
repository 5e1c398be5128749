"""Audio and its timing: codecs, voice activity, endpointing, barge-in, playout, speech contracts."""
