"""Remote dialects: what a resource consists of, and which requests bring its bytes. Knows no disk."""
