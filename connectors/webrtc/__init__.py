"""Calls from browsers: WebRTC by aiortc, Opus on the 16 kHz path, words and keys on a data channel."""
