"""What holds for all tests."""

import os

# Sums of floats differ in their last digits with the number of threads, which would follow from the load
# of the machine; tests compare what they compute with what other processes do. Libraries read it when they
# are imported.
os.environ["OMP_NUM_THREADS"] = "1"
