"""What can be asked of a virtual machine, by topic; `kvm_ioctls.vm` composes it."""
