"""How the repository sets itself up: host requirements, environments, built wheels."""
