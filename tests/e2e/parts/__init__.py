"""The parts of the test. Each is a function of the bed, and leaves the cluster as it found it."""
