"""cgrefine: coarse-grained protein force fields from all-atom MD, trusted in simulation."""

__version__ = "0.1.0"
