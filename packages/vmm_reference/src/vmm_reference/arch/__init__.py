"""What depends on the guest's processor architecture, one package per architecture."""
