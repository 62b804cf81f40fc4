"""Core ML: programs for Apple's devices, built operation by operation in MIL."""
