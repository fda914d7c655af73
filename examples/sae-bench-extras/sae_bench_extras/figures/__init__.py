"""The figures of the tasks of this package, as functions of sums over units; NumPy alone."""
