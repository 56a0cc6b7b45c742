"""Images for the node: our own small ones, the stand-ins for public base images, and the gateway's."""
