"""Pure values: what is asked for, who asks, what an origin said. Nothing here knows of a disk, a socket or a clock."""
