import os

# As Ray has it in workers, so that sums are rounded as there; numpy reads it as it is imported.
os.environ["OMP_NUM_THREADS"] = "1"
