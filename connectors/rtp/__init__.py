"""The shell of RTP: ports, sockets, sources and encryption, for legs whose signalling is somewhere else."""
