"""What can be asked of a virtual processor, by topic; `kvm_ioctls.vcpu` composes it."""
