"""How anything is measured: alternating blocks, limits of the machine, and the recording of results."""
