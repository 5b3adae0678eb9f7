"""A virtual machine monitor in Python: the application on top of the py-vmm building blocks."""
