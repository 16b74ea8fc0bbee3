"""The protocol, decided from bytes alone: handshakes and frames. No I/O."""
