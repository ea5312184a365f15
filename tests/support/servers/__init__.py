"""Real servers that tests run against, each a process of its own on loopback, in a directory of its own; knows nothing
of the product. A test asks for them by the fixtures of fixtures.py."""
