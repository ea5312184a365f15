"""Floor 3: container images, made present in the container engine of this host by asking it over its socket."""
