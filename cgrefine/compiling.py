"""Options of compilation."""

ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For a program that runs once: quick to make instead of quick to run (jax.jit's compiler_options)."""
