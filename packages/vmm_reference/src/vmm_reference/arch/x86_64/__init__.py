"""x86-64: memory layout, the state in which a kernel is entered, CPUID and MSRs."""
